"""BAGEL: one network that reads text and pictures, thinks in text and paints by flow matching.

Training runs whole samples packed in one row (`forward`). Sampling works from a context: `read` builds one of texts and
pictures, `prefill` adds a text segment, `velocity` denoises a picture that sees the context and itself and leaves no trace in
it, so one context serves every denoising step.

Shapes: S samples, T tokens, U ids of a packed row, L latent tokens, N noised ones, C channels of a latent token, H hidden size,
V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unigrpo.models.bagel.attention import Attend
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.context import Context as Context, Remembered, gathered
from unigrpo.models.bagel.packing import Packed, Split, pack
from unigrpo.models.bagel.preprocess import table_rows
from unigrpo.models.bagel.transformer import Transformer, widened
from unigrpo.models.bagel.vision import Connector, VisionModel

VISION_PREFIXES = ("vit_model.", "connector.")
"""Names of the parameters that let the model see pictures."""


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

    def forward(self, row_N: Tensor) -> Tensor:
        """[N, H] of these rows."""
        return self.pos_embed[row_N]


def position_table(side: int, hidden_size: int) -> Tensor:
    """The [side^2, H] sine-cosine table, w_k = 10000^(-k / (H / 4)), float32 worked out in float64."""
    quarter = hidden_size // 4
    w_Q = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angle_PQ = torch.arange(side, dtype=torch.float64)[:, None] * w_Q
    wave_PH = torch.cat((angle_PQ.sin(), angle_PQ.cos()), -1)
    column = wave_PH[None].expand(side, -1, -1)
    row = wave_PH[:, None].expand(-1, side, -1)
    return torch.cat((column, row), -1).flatten(0, 1).to(torch.float32)


class Hidden(NamedTuple):
    """What a packed row comes to."""

    text_UH: Tensor
    """[U, H] after the final norm, of every id of the row."""
    velocity_NC: Tensor
    """[N, C] of every noised latent token, float32 (float64 in a float64 model)."""


class Bagel(nn.Module):
    """Both experts, the latent projections, the time embedder and the vision tower, if the model has one; released names.

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
        if config.vision is not None:
            self.vit_model = VisionModel(config.vision)
            self.connector = Connector(config.vision.hidden_size, config.hidden_size)
            self.vit_pos_embed = PositionTable(config.vision.max_patches_per_side, config.hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and the compute; latents and velocities are float32 (float64 in a float64 model)."""
        return self.llm2vae.weight.dtype

    @property
    def _device(self) -> torch.device:
        return self.latent_pos_embed.pos_embed.device

    def empty_context(self, num_samples: int) -> Context:
        """The context of samples that have said nothing."""
        return Context.empty(
            num_samples,
            num_layers=self.config.num_layers,
            num_kv_heads=self.config.num_kv_heads,
            head_dim=self.config.head_dim,
            dtype=self.dtype,
            device=self._device,
        )

    def forward(self, packed: Packed) -> Hidden:
        """Everything training asks of a packed row."""
        text_UH, latent_LH = self._run(packed, [packed.attend] * self.config.num_layers)
        wide = widened(self.dtype)
        if latent_LH is None:
            return Hidden(text_UH, text_UH.new_zeros(0, self.config.latent_channels, dtype=wide))
        velocity_NC = self.llm2vae(latent_LH[packed.noised_N]).to(wide)
        # A loss of texts must reach the last layer's latents: ZeRO-3 cannot recompute a layer of which an output is left over.
        return Hidden(text_UH + 0 * velocity_NC.sum().to(self.dtype), velocity_NC)

    def read(self, samples_S: Sequence[Sequence[Split]]) -> Context:
        """The context of samples of texts and pictures; one without any has said nothing."""
        if not any(split.num_tokens for splits in samples_S for split in splits):
            assert not any(samples_S), "a context of gaps alone has no use"
            return self.empty_context(len(samples_S))
        packed = pack(samples_S, self.config, device=self._device, dtype=self.dtype)
        remembered = [Remembered(packed.attend) for _ in range(self.config.num_layers)]
        self._run(packed, remembered)
        return gathered(remembered, packed.tokens, packed.next_position_S)

    def _run(self, packed: Packed, attends: Sequence[Attend]) -> tuple[Tensor, Tensor | None]:
        """[U, H] of the ids and [L, H] of the latents, if the row paints, after the final norms."""
        und_TH = self.language_model.model.embed_tokens(packed.ids_U)
        if packed.sees:
            und_TH = torch.cat((und_TH, self._seen(packed)))
        gen_LH = self._latents(packed) if packed.paints else None
        und_1TH, gen_1LH = self.language_model.model(
            und_TH[None], None if gen_LH is None else gen_LH[None], packed.position_T[None], attends
        )
        return und_1TH[0, : len(packed.ids_U)], None if gen_1LH is None else gen_1LH[0]

    def _seen(self, packed: Packed) -> Tensor:
        """[V, H] patches as the understanding expert reads them."""
        features_VH = self.vit_model(packed.patches_VC.to(self.dtype), packed.patch_row_V, packed.attend_patches)
        embedded_VH: Tensor = self.connector(features_VH) + self.vit_pos_embed(packed.patch_row_V)
        return embedded_VH

    def _latents(self, packed: Packed) -> Tensor:
        """[L, H] latent tokens as the generation expert reads them."""
        time_BH = self.time_embedder(packed.t_B, self.dtype)
        placed_LH = self.vae2llm(packed.latents_LC.to(self.dtype)) + self.latent_pos_embed(packed.latent_row_L)
        embedded_LH: Tensor = placed_LH + time_BH[packed.level_L]
        return embedded_LH

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
        attends = context.attends(mask)
        hidden_STH, _ = self.language_model.model(embedded_STH, None, position_ST, attends)
        longer = Context(
            k=tuple(attend.k for attend in attends),
            v=tuple(attend.v for attend in attends),
            valid_ST=torch.cat((context.valid_ST, offset_T < length_S[:, None]), 1),
            position_S=context.position_S + length_S,
        )
        return hidden_STH, longer

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every next token, [..., H] -> [..., V], in the dtype of the weights."""
        scores: Tensor = self.language_model.lm_head(hidden)
        return scores

    def token_logp(self, hidden_NH: Tensor, target_N: Tensor, num_pieces: int = 1) -> Tensor:
        """log p of each target given the hidden state that predicts it, [N] float32 (float64 in a float64 model).

        With several pieces the logits of one at a time are held, and recomputed for the gradient. The head runs exactly
        num_pieces times, over empty pieces too, so that ranks which share its weights (ZeRO-3) can keep step.
        """
        if num_pieces == 1:
            return self._target_logp(hidden_NH, target_N)
        pieces = zip(hidden_NH.tensor_split(num_pieces), target_N.tensor_split(num_pieces), strict=True)
        return torch.cat([checkpoint(self._target_logp, *piece, use_reentrant=False) for piece in pieces])

    def _target_logp(self, hidden_NH: Tensor, target_N: Tensor) -> Tensor:
        logits_NV = self.logits(hidden_NH).to(widened(self.dtype))
        return logits_NV.gather(-1, target_N[:, None]).squeeze(-1) - logits_NV.logsumexp(-1)

    def velocity(self, x_SLC: Tensor, t_S: Tensor, context: Context, grid_hw: tuple[int, int]) -> Tensor:
        """dx/dt of noised latents at flow time t in [0, 1] given the context, [S, L, C] as x.

        The block, markers included, sits at the context's RoPE position, sees the context and all of itself.
        """
        num_samples, num_latents, _ = x_SLC.shape
        assert num_latents == grid_hw[0] * grid_hw[1], f"{num_latents} latent tokens do not fill a grid of {grid_hw}"
        row_L = table_rows(grid_hw, self.config.max_latent_size).to(x_SLC.device)
        gen_SLH = self.vae2llm(x_SLC.to(self.dtype)) + self.latent_pos_embed(row_L)
        gen_SLH = gen_SLH + self.time_embedder(t_S, self.dtype)[:, None]
        marker_ids = torch.tensor([self.config.start_of_image, self.config.end_of_image], device=x_SLC.device)
        und_S2H = self.language_model.model.embed_tokens(marker_ids).expand(num_samples, -1, -1)
        block = context.valid_ST.new_ones(num_samples, 2 + num_latents)
        attends = context.attends(torch.cat((context.valid_ST, block), 1)[:, None, None])
        _, gen_SLH = self.language_model.model(und_S2H, gen_SLH, context.position_S[:, None], attends)
        velocity_SLC: Tensor = self.llm2vae(gen_SLH)
        return velocity_SLC.to(x_SLC.dtype)

    def text_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Named parameters of the text expert, embedding and head."""
        return [(name, value) for name, value in self.named_parameters() if text_expert_name(name) is not None]

    def generation_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Named parameters of the generation expert, time embedder and latent projections."""
        return [(name, value) for name, value in self.named_parameters() if is_generation_name(name)]

    def recompute_layers(self, recompute: bool) -> None:
        """Whether gradients recompute each layer instead of keeping what it held."""
        for module in self.modules():
            if isinstance(module, Transformer | VisionModel):
                module.checkpoint_layers = recompute

    def vision_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Named parameters of the vision tower and its connector; none of a model without."""
        return [(name, value) for name, value in self.named_parameters() if name.startswith(VISION_PREFIXES)]


def is_generation_name(name: str) -> bool:
    """Whether a parameter of this released name belongs to the generation expert."""
    return "_moe_gen" in name or name.startswith(("time_embedder.", "vae2llm.", "llm2vae."))


def text_expert_name(name: str) -> str | None:
    """The name vLLM's Qwen2 knows a released parameter by; None for what a served text expert does not have."""
    prefix = "language_model."
    return name.removeprefix(prefix) if name.startswith(prefix) and not is_generation_name(name) else None
