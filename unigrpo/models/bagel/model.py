"""BAGEL without its eyes: thinks in text and paints by flow matching; pictures in, guidance and packing are not built yet.

A sample is a row of segments (BAGEL.md 4). `prefill` adds a text segment to a context; `velocity` denoises an image block
that sees the context and itself, and leaves no trace in it, so one context serves every denoising step.

Shapes: S samples, T tokens, L latent tokens of a picture, C channels of a latent token, H hidden size, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.context import Context as Context
from unigrpo.models.bagel.transformer import Transformer, widened


class LanguageModel(nn.Module):
    """The transformer and the head over its understanding stream, named as in the released checkpoint."""

    def __init__(self, config: BagelConfig) -> None:
        super().__init__()
        self.model = Transformer(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)


class TimeEmbedder(nn.Module):
    """Flow time in [0, 1], unscaled, to a vector: [cos(t f), sin(t f)] with f_k = 10000^(-k / (features / 2)), then an MLP."""

    def __init__(self, features: int, hidden_size: int) -> None:
        super().__init__()
        self.features = features
        self.mlp = nn.Sequential(nn.Linear(features, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, t_S: Tensor, dtype: torch.dtype) -> Tensor:
        """[S] -> [S, H] in the dtype of the weights; the features are computed in float32 or wider."""
        half = self.features // 2
        exponent_F = torch.arange(half, device=t_S.device).to(widened(dtype)) / half
        angle_SF = t_S[:, None].to(widened(dtype)) * 10000.0**-exponent_F
        embedded: Tensor = self.mlp(torch.cat((angle_SF.cos(), angle_SF.sin()), -1).to(dtype))
        return embedded


class PositionTable(nn.Module):
    """A frozen table of 2-D positions: row r * side + c is [sin(c w), cos(c w), sin(r w), cos(r w)], column first."""

    pos_embed: Tensor

    def __init__(self, side: int, hidden_size: int) -> None:
        super().__init__()
        self.side = side
        self.register_buffer("pos_embed", position_table(side, hidden_size))

    def forward(self, grid_hw: tuple[int, int]) -> Tensor:
        """[rows * columns, H], row-major."""
        rows, columns = grid_hw
        return self.pos_embed.view(self.side, self.side, -1)[:rows, :columns].flatten(0, 1)


def position_table(side: int, hidden_size: int) -> Tensor:
    """The [side^2, H] sine-cosine table, w_k = 10000^(-k / (H / 4)), float32 worked out in float64 (BAGEL.md 2)."""
    quarter = hidden_size // 4
    w_Q = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angle_PQ = torch.arange(side, dtype=torch.float64)[:, None] * w_Q
    wave_PH = torch.cat((angle_PQ.sin(), angle_PQ.cos()), -1)
    column = wave_PH[None].expand(side, -1, -1)
    row = wave_PH[:, None].expand(-1, side, -1)
    return torch.cat((column, row), -1).flatten(0, 1).to(torch.float32)


class Bagel(nn.Module):
    """Both experts, the latent projections and the time embedder; every parameter under its released name.

    Parameters are used only inside the forward of the submodule that owns them, as ZeRO-3 requires.
    """

    def __init__(self, config: BagelConfig) -> None:
        super().__init__()
        self.config = config
        self.language_model = LanguageModel(config)
        self.time_embedder = TimeEmbedder(config.time_features, config.hidden_size)
        self.vae2llm = nn.Linear(config.latent_channels, config.hidden_size)
        self.llm2vae = nn.Linear(config.hidden_size, config.latent_channels)
        self.latent_pos_embed = PositionTable(config.max_latent_size, config.hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and the compute; latents and velocities are float32 (float64 in a float64 model)."""
        return self.llm2vae.weight.dtype

    def empty_context(self, num_samples: int) -> Context:
        """The context of samples that have said nothing."""
        return Context.empty(
            num_samples,
            num_layers=self.config.num_layers,
            num_kv_heads=self.config.num_kv_heads,
            head_dim=self.config.head_dim,
            dtype=self.dtype,
            device=self.latent_pos_embed.pos_embed.device,
        )

    def prefill(self, ids_ST: Tensor, length_S: Tensor, context: Context | None = None) -> tuple[Tensor, Context]:
        """Add one text segment to each sample: ids right-padded with any valid id, length_S of them real (0 is allowed).

        Returns the hidden states after the final norm [S, T, H] (arbitrary at padding) and the longer context.
        """
        num_samples, num_tokens = ids_ST.shape
        if context is None:
            context = self.empty_context(num_samples)
        offset_T = torch.arange(num_tokens, device=ids_ST.device)
        mask = None
        if num_past := context.valid_ST.shape[1]:
            past = context.valid_ST[:, None, None].expand(-1, -1, num_tokens, num_past)
            own = (offset_T <= offset_T[:, None]).expand(num_samples, 1, -1, -1)
            mask = torch.cat((past, own), -1)
        embedded_STH = self.language_model.model.embed_tokens(ids_ST)
        position_ST = context.position_S[:, None] + offset_T
        hidden_STH, _, kept = self.language_model.model(embedded_STH, None, position_ST, context, mask, keep=True)
        longer = Context(
            k=tuple(k for k, _ in kept),
            v=tuple(v for _, v in kept),
            valid_ST=torch.cat((context.valid_ST, offset_T < length_S[:, None]), 1),
            position_S=context.position_S + length_S,
        )
        return hidden_STH, longer

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every next token, [..., H] -> [..., V], in the dtype of the weights."""
        scores: Tensor = self.language_model.lm_head(hidden)
        return scores

    def token_logp(self, hidden_STH: Tensor, target_ST: Tensor, num_pieces: int = 1) -> Tensor:
        """log p of each target given the hidden state that predicts it, [S, T] float32 (float64 in a float64 model).

        With several pieces the logits of one at a time are held, and recomputed for the gradient. The head runs exactly
        num_pieces times, over empty pieces too, so that ranks which share its weights (ZeRO-3) can keep step.
        """
        if num_pieces == 1:
            return self._target_logp(hidden_STH, target_ST)
        pieces = zip(hidden_STH.tensor_split(num_pieces, 1), target_ST.tensor_split(num_pieces, 1), strict=True)
        return torch.cat([checkpoint(self._target_logp, *piece, use_reentrant=False) for piece in pieces], 1)

    def _target_logp(self, hidden_STH: Tensor, target_ST: Tensor) -> Tensor:
        logits_STV = self.logits(hidden_STH).to(widened(self.dtype))
        return logits_STV.gather(-1, target_ST[..., None]).squeeze(-1) - logits_STV.logsumexp(-1)

    def velocity(self, x_SLC: Tensor, t_S: Tensor, context: Context, grid_hw: tuple[int, int]) -> Tensor:
        """dx/dt of noised latents at flow time t in [0, 1] given the context, [S, L, C] as x (BAGEL.md 3 to 5).

        The block, markers included, sits at the context's RoPE position, sees the context and all of itself.
        """
        num_samples, num_latents, _ = x_SLC.shape
        assert num_latents == grid_hw[0] * grid_hw[1], f"{num_latents} latent tokens do not fill a grid of {grid_hw}"
        gen_SLH = self.vae2llm(x_SLC.to(self.dtype)) + self.latent_pos_embed(grid_hw)
        gen_SLH = gen_SLH + self.time_embedder(t_S, self.dtype)[:, None]
        marker_ids = torch.tensor([self.config.start_of_image, self.config.end_of_image], device=x_SLC.device)
        und_S2H = self.language_model.model.embed_tokens(marker_ids).expand(num_samples, -1, -1)
        block = context.valid_ST.new_ones(num_samples, 2 + num_latents)
        mask = torch.cat((context.valid_ST, block), 1)[:, None, None]
        position_S1 = context.position_S[:, None]
        _, gen_SLH, _ = self.language_model.model(und_S2H, gen_SLH, position_S1, context, mask, keep=False)
        velocity_SLC: Tensor = self.llm2vae(gen_SLH)
        return velocity_SLC.to(x_SLC.dtype)

    def text_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Named parameters of the text expert, embedding and head."""
        return [(name, value) for name, value in self.named_parameters() if not is_generation_name(name)]

    def generation_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Named parameters of the generation expert, time embedder and latent projections."""
        return [(name, value) for name, value in self.named_parameters() if is_generation_name(name)]


def is_generation_name(name: str) -> bool:
    """Whether a parameter of this released name belongs to the generation expert."""
    return "_moe_gen" in name or name.startswith(("time_embedder.", "vae2llm.", "llm2vae."))


def text_expert_name(name: str) -> str | None:
    """The name vLLM's Qwen2 knows a released parameter by; None for what a served text expert does not have (BAGEL.md 14)."""
    prefix = "language_model."
    return name.removeprefix(prefix) if name.startswith(prefix) and not is_generation_name(name) else None
