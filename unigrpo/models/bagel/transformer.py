"""Mixture-of-Transformers: two experts with parameters of their own, one attention over the tokens of both.

Text, patches of pictures and the two markers around every picture go through the understanding expert (*und*), latent tokens
through the generation expert (*gen*), whose parameters carry the suffix `_moe_gen`. The two streams are kept as two tensors, so
routing costs nothing; they meet in the keys and values only.

Shapes: S samples (1 where they are packed in one row), U und tokens, L latent tokens, T of both, H hidden size, N query heads,
K key-value heads, D head dim, R = D / 2 rotated pairs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unigrpo.models.bagel.attention import Attend
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.recompute import recomputed

EXPERTS = ("und", "gen")


class Rotation(NamedTuple):
    """Cosines and sines of the rotary position embedding, [S, U + L or 1, 1, R]; 1 where a whole block shares a position."""

    cos: Tensor
    sin: Tensor


def widened(dtype: torch.dtype) -> torch.dtype:
    """The type that statistics, angles and latents are kept in beside weights of this type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def rotation(position_SU: Tensor, *, head_dim: int, theta: float, dtype: torch.dtype) -> Rotation:
    """Angles position * theta^(-2r/D) of every rotated pair, cast to `dtype` only at the end (Qwen2's RoPE)."""
    pair_R = torch.arange(0, head_dim, 2, device=position_SU.device).to(widened(dtype))
    angle_SU1R = position_SU[..., None, None].to(widened(dtype)) * theta ** (-pair_R / head_dim)
    return Rotation(angle_SU1R.cos().to(dtype), angle_SU1R.sin().to(dtype))


def rotate(x_SUND: Tensor, by: Rotation) -> Tensor:
    """Rotate the halves of each head against each other."""
    low, high = x_SUND.chunk(2, -1)
    return torch.cat((low * by.cos - high * by.sin, high * by.cos + low * by.sin), -1)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; the statistics in float32, or float64 in a float64 model."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(widened(x.dtype))
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return down


class Attention(nn.Module):
    """Grouped-query attention with a projection and a q/k norm per expert, and one softmax over both."""

    def __init__(self, config: BagelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        hidden, bias = config.hidden_size, config.attention_bias
        width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj, self.q_proj_moe_gen = (nn.Linear(hidden, width, bias=bias) for _ in EXPERTS)
        self.k_proj, self.k_proj_moe_gen = (nn.Linear(hidden, kv_width, bias=bias) for _ in EXPERTS)
        self.v_proj, self.v_proj_moe_gen = (nn.Linear(hidden, kv_width, bias=bias) for _ in EXPERTS)
        self.o_proj, self.o_proj_moe_gen = (nn.Linear(width, hidden, bias=False) for _ in EXPERTS)
        self.q_norm, self.q_norm_moe_gen = (RMSNorm(config.head_dim, config.rms_norm_eps) for _ in EXPERTS)
        self.k_norm, self.k_norm_moe_gen = (RMSNorm(config.head_dim, config.rms_norm_eps) for _ in EXPERTS)

    def forward(self, und_SUH: Tensor, gen_SLH: Tensor | None, by: Rotation, attend: Attend) -> tuple[Tensor, Tensor | None]:
        """What attention adds to each stream; `attend` sees und tokens first, then gen tokens."""
        q = self.q_norm(self._heads(self.q_proj(und_SUH)))
        k = self.k_norm(self._heads(self.k_proj(und_SUH)))
        v = self._heads(self.v_proj(und_SUH))
        if gen_SLH is not None:
            q = torch.cat((q, self.q_norm_moe_gen(self._heads(self.q_proj_moe_gen(gen_SLH)))), 1)
            k = torch.cat((k, self.k_norm_moe_gen(self._heads(self.k_proj_moe_gen(gen_SLH)))), 1)
            v = torch.cat((v, self._heads(self.v_proj_moe_gen(gen_SLH))), 1)
        mixed = attend(rotate(q, by), rotate(k, by), v).flatten(2)
        if gen_SLH is None:
            return self.o_proj(mixed), None
        und_len = und_SUH.shape[1]
        return self.o_proj(mixed[:, :und_len]), self.o_proj_moe_gen(mixed[:, und_len:])

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], x.shape[-1] // self.head_dim, self.head_dim)


class Layer(nn.Module):
    """One pre-norm residual block of both experts."""

    def __init__(self, config: BagelConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp, self.mlp_moe_gen = (SwiGLU(config.hidden_size, config.intermediate_size) for _ in EXPERTS)
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm, self.input_layernorm_moe_gen = (RMSNorm(hidden, eps) for _ in EXPERTS)
        self.post_attention_layernorm, self.post_attention_layernorm_moe_gen = (RMSNorm(hidden, eps) for _ in EXPERTS)

    def forward(self, und_SUH: Tensor, gen_SLH: Tensor | None, by: Rotation, attend: Attend) -> tuple[Tensor, Tensor | None]:
        """Both streams, one block further."""
        normed_gen = None if gen_SLH is None else self.input_layernorm_moe_gen(gen_SLH)
        und_add, gen_add = self.self_attn(self.input_layernorm(und_SUH), normed_gen, by, attend)
        und_SUH = und_SUH + und_add
        und_SUH = und_SUH + self.mlp(self.post_attention_layernorm(und_SUH))
        if gen_SLH is not None:
            gen_SLH = gen_SLH + gen_add
            gen_SLH = gen_SLH + self.mlp_moe_gen(self.post_attention_layernorm_moe_gen(gen_SLH))
        return und_SUH, gen_SLH


class Transformer(nn.Module):
    """The stack of layers with its token embedding and one final norm per expert."""

    def __init__(self, config: BagelConfig) -> None:
        super().__init__()
        self.head_dim, self.rope_theta = config.head_dim, config.rope_theta
        self.checkpoint_layers = False
        """Whether gradients recompute each layer instead of keeping what it held."""
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.norm_moe_gen = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, und_SUH: Tensor, gen_SLH: Tensor | None, position_ST: Tensor, attends: Sequence[Attend]
    ) -> tuple[Tensor, Tensor | None]:
        """Both streams through all layers and their final norms.

        position_ST is the RoPE position of und, then gen tokens, or [S, 1] of a block that shares one; attends is one a layer.
        """
        by = rotation(position_ST, head_dim=self.head_dim, theta=self.rope_theta, dtype=und_SUH.dtype)
        for layer, attend in zip(self.layers, attends, strict=True):
            if self.checkpoint_layers and torch.is_grad_enabled():
                und_SUH, gen_SLH = recomputed(layer, und_SUH, gen_SLH, by, attend)
            else:
                und_SUH, gen_SLH = layer(und_SUH, gen_SLH, by, attend)
        return self.norm(und_SUH), None if gen_SLH is None else self.norm_moe_gen(gen_SLH)
