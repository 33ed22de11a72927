"""BAGEL's eyes: a SigLIP tower over the patches of any number of pictures, and the connector into the language model.

Pre-norm transformer blocks with full attention inside a picture; no class token, no pooling head, no rotary positions.
Pictures lie end to end in one row, and the caller's `attend` keeps them apart: block_attention over one non-causal Block a
picture. Names of submodules are those of the released checkpoint below `vit_model.` and `connector.`.

Shapes: V patches of all pictures, C numbers of a patch, E width of the tower, N heads, D head dim, H hidden size of the
language model.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unigrpo.models.bagel.attention import Attend
from unigrpo.models.bagel.config import VisionConfig
from unigrpo.models.bagel.recompute import recomputed


class Perceptron(nn.Module):
    """fc2(gelu(fc1(x))) with the tanh form of GELU."""

    def __init__(self, in_size: int, inner_size: int, out_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_size, inner_size)
        self.fc2 = nn.Linear(inner_size, out_size)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return y


class Connector(Perceptron):
    """What the tower saw, [V, E], as the language model reads it, [V, H]; its position table is added afterwards."""

    def __init__(self, vision_hidden: int, hidden: int) -> None:
        super().__init__(vision_hidden, hidden, hidden)


class VisionModel(nn.Module):
    """The whole tower, one level down, as the released names have it."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.vision_model = Tower(config)

    @property
    def checkpoint_layers(self) -> bool:
        """Whether gradients recompute each block instead of keeping what it held."""
        return self.vision_model.encoder.checkpoint_layers

    @checkpoint_layers.setter
    def checkpoint_layers(self, recompute: bool) -> None:
        self.vision_model.encoder.checkpoint_layers = recompute

    def forward(self, patches_VC: Tensor, place_V: Tensor, attend: Attend | None) -> Tensor:
        """[V, E] after the last norm, in the dtype of the weights.

        patches_VC are flattened (dy, dx, channel) in [-1, 1]; place_V int64 rows of the position table. `attend` is None when,
        and only when, there are no patches: all modules run then too, on no rows, so that ranks which share weights (ZeRO-3)
        keep step. For their backward passes to keep step as well, the loss must depend on what is returned.
        """
        seen_VE: Tensor = self.vision_model(patches_VC, place_V, attend)
        return seen_VE


class Tower(nn.Module):
    """Embeddings, blocks, last norm."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, patches_VC: Tensor, place_V: Tensor, attend: Attend | None) -> Tensor:
        seen_VE: Tensor = self.post_layernorm(self.encoder(self.embeddings(patches_VC, place_V), attend))
        return seen_VE


class Embeddings(nn.Module):
    """Patches projected, plus a learned vector for each place."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Linear(config.patch_channels, config.hidden_size)
        self.position_embedding = nn.Embedding((config.image_size // config.patch_size) ** 2, config.hidden_size)

    def forward(self, patches_VC: Tensor, place_V: Tensor) -> Tensor:
        projected_VE: Tensor = self.patch_embedding(patches_VC.to(self.patch_embedding.weight.dtype))
        position_VE: Tensor = self.position_embedding(place_V)
        return projected_VE + position_VE


class Encoder(nn.Module):
    """The stack of blocks."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.checkpoint_layers = False
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_layers))

    def forward(self, x_VE: Tensor, attend: Attend | None) -> Tensor:
        for layer in self.layers:
            x_VE = (
                recomputed(layer, x_VE, attend) if self.checkpoint_layers and torch.is_grad_enabled() else layer(x_VE, attend)
            )
        return x_VE


class VisionLayer(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = (nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) for _ in range(2))
        self.self_attn = VisionAttention(config.hidden_size, config.num_heads)
        self.mlp = Perceptron(config.hidden_size, config.intermediate_size, config.hidden_size)

    def forward(self, x_VE: Tensor, attend: Attend | None) -> Tensor:
        x_VE = x_VE + self.self_attn(self.layer_norm1(x_VE), attend)
        added_VE: Tensor = self.mlp(self.layer_norm2(x_VE))
        return x_VE + added_VE


class VisionAttention(nn.Module):
    """Multi-head attention with biased projections; scores are scaled by 1 / sqrt(D)."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(hidden_size, hidden_size) for _ in range(4))

    def forward(self, x_VE: Tensor, attend: Attend | None) -> Tensor:
        q_VND, k_VND, v_VND = (
            projected.unflatten(-1, (self.num_heads, projected.shape[-1] // self.num_heads))
            for projected in (self.q_proj(x_VE), self.k_proj(x_VE), self.v_proj(x_VE))
        )
        if len(x_VE):
            assert attend is not None, f"{len(x_VE)} patches and nothing that says which see each other"
            mixed_VND = attend(q_VND[None], k_VND[None], v_VND[None])[0]
        else:
            mixed_VND = q_VND + k_VND + v_VND  # no rows either way, but the backward pass reaches all three projections
        mixed_VE: Tensor = self.out_proj(mixed_VND.flatten(1))
        return mixed_VE
