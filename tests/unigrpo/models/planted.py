"""Bugs that a port of BAGEL may have, each ready to be planted into the one model that there is.

A plant changes a function, a module or weights, and pytest's monkeypatch puts them back. What a module owns is changed through
`setitem`, since an nn.Module keeps it in dicts of its own. Functions that the parity suite calls itself are changed in it.

Shapes: T tokens of a packed row.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.unigrpo.models import test_bagel_parity as parity
from unigrpo import denoise
from unigrpo.algo import guidance
from unigrpo.algo.flow import ode_step, time_grid
from unigrpo.models.bagel import model as bagel_model, packing
from unigrpo.models.bagel.autoencoder import from_tokens, to_tokens
from unigrpo.models.bagel.context import Context
from unigrpo.models.bagel.model import Bagel
from unigrpo.models.bagel.packing import Packed
from unigrpo.models.bagel.preprocess import to_patches
from unigrpo.models.bagel.transformer import Attention, RMSNorm, Transformer

Plant = Callable[[pytest.MonkeyPatch, Bagel], None]


def understanding_paints(patch: pytest.MonkeyPatch, model: Bagel) -> None:
    for module in model.modules():
        for name, _ in list(module.named_children()):
            if name.endswith("_moe_gen"):
                patch.setitem(module._modules, name, getattr(module, name.removesuffix("_moe_gen")))


def markers_through_generation(patch: pytest.MonkeyPatch, _: Bagel) -> None:
    """The markers around latents move to the head of the other stream; attention sees all tokens where they were."""
    run, forward = Bagel._run, Transformer.forward
    markers = [0, 1]  # all that `velocity` gives to the understanding expert

    def noting(self: Bagel, packed: Packed, attends: Any) -> Any:
        first = len(packed.ids_U) + len(packed.patches_VC)
        beside = [pair for tokens in packed.tokens for pair in pairwise(tokens) if (pair[0] < first) != (pair[1] < first)]
        markers[:] = sorted(min(pair) for pair in beside)
        try:
            return run(self, packed, attends)
        finally:
            markers[:] = [0, 1]

    def moving(self: Transformer, und: Tensor, gen: Tensor | None, position: Tensor, attends: Sequence[Any]) -> Any:
        if gen is None:
            return forward(self, und, gen, position, attends)
        kept = [at for at in range(und.shape[1]) if at not in markers]
        order = torch.tensor([*kept, *markers, *range(und.shape[1], und.shape[1] + gen.shape[1])])
        back = order.argsort()

        def replaced(attend: Any) -> Any:
            return lambda *qkv: attend(*(each[:, back] for each in qkv))[:, order]

        positions = position if position.shape[1] == 1 else position[:, order]
        und_out, gen_out = forward(
            self, und[:, kept], torch.cat((und[:, markers], gen), 1), positions, [replaced(attend) for attend in attends]
        )
        assert gen_out is not None
        whole = torch.cat((und_out, gen_out), 1)[:, back]
        return whole[:, : und.shape[1]], whole[:, und.shape[1] :]

    patch.setattr(Bagel, "_run", noting)
    patch.setattr(Transformer, "forward", moving)


def positions_increment(patch: pytest.MonkeyPatch, _: Bagel) -> None:
    add, forward = packing._Row._add_picture, Transformer.forward

    def counting(self: Any, split: Any, position: int) -> Any:
        place, own = add(self, split, position)
        tokens = [(stream, at) for stream, run in own for at in run]
        for step, (stream, at) in enumerate(tokens):
            self._streams[stream].positions[at] += step
        return place, own

    def shifted(self: Transformer, und: Tensor, gen: Tensor | None, position: Tensor, attends: Any) -> Any:
        if gen is not None and position.shape[1] == 1:
            position = position + torch.tensor([0, gen.shape[1] + 1, *range(1, gen.shape[1] + 1)])
        return forward(self, und, gen, position, attends)

    patch.setattr(packing._Row, "_add_picture", counting)
    patch.setattr(Transformer, "forward", shifted)


def pictures_causal(patch: pytest.MonkeyPatch, _: Bagel) -> None:
    packed, attends = packing._Row.packed, Context.attends

    def causal(self: Any, *args: Any, **options: Any) -> Packed:
        self._blocks = [(query, key, True) for query, key, _ in self._blocks]
        return packed(self, *args, **options)

    def triangle(self: Context, mask: Tensor | None) -> Any:
        past = self.valid_ST.shape[1]
        if mask is not None and mask.shape[2] == 1 and mask.shape[3] - past > 1:  # a picture: markers, then latents
            last = mask.shape[3] - past - 1
            rank = torch.tensor([0, last, *range(1, last)])
            own = rank <= rank[:, None]
            mask = mask & torch.cat((own.new_ones(last + 1, past), own), 1)
        return attends(self, mask)

    patch.setattr(packing._Row, "packed", causal)
    patch.setattr(Context, "attends", triangle)


def noise_stays_visible(patch: pytest.MonkeyPatch, _: Bagel) -> None:
    packed = packing._Row.packed

    def showing(self: Any, *args: Any, **options: Any) -> Packed:
        row = packed(self, *args, **options)
        first = len(row.ids_U) + len(row.patches_VC)
        noised = {first + at for at in row.noised_N.tolist()}
        allowed_TT = parity.allowed_pairs(row)
        for tokens in row.tokens:
            for at, place in enumerate(tokens):
                allowed_TT[list(tokens[at:]), place] |= place in noised

        def attend(q_STND: Tensor, k_STKD: Tensor, v_STKD: Tensor) -> Tensor:
            q, k, v = (each.transpose(1, 2) for each in (q_STND, k_STKD, v_STKD))
            return F.scaled_dot_product_attention(q, k, v, allowed_TT, enable_gqa=True).transpose(1, 2)

        return replace(row, attend=attend)

    patch.setattr(packing._Row, "packed", showing)


def no_head_norm(patch: pytest.MonkeyPatch, model: Bagel) -> None:
    for module in model.modules():
        if isinstance(module, Attention):
            for name in ("q_norm", "k_norm", "q_norm_moe_gen", "k_norm_moe_gen"):
                patch.setitem(module._modules, name, nn.Identity())


def heads_tiled(patch: pytest.MonkeyPatch, _: Bagel) -> None:
    attention = F.scaled_dot_product_attention

    def tiled(q: Tensor, k: Tensor, v: Tensor, *args: Any, enable_gqa: bool = False, **options: Any) -> Tensor:
        times = q.shape[1] // k.shape[1]
        return attention(q, k.repeat(1, times, 1, 1), v.repeat(1, times, 1, 1), *args, **options)

    patch.setattr(F, "scaled_dot_product_attention", tiled)


def other_rope_base(patch: pytest.MonkeyPatch, model: Bagel) -> None:
    patch.setattr(model.language_model.model, "rope_theta", model.config.rope_theta / 100)


def large_eps(patch: pytest.MonkeyPatch, model: Bagel) -> None:
    for module in model.modules():
        if isinstance(module, RMSNorm):
            patch.setattr(module, "eps", 1e-3)


def table_rows(rows_of: Callable[[Tensor, Tensor, int, int], Tensor]) -> Plant:
    """rows_of(row, column, picture's columns, table's side) in place of row * side + column."""

    def plant(patch: pytest.MonkeyPatch, _: Bagel) -> None:
        def wrong(grid_hw: tuple[int, int], side: int) -> Tensor:
            row, column = torch.meshgrid(*map(torch.arange, grid_hw), indexing="ij")
            return rows_of(row, column, grid_hw[1], side).flatten()

        for module in (bagel_model, packing, parity):
            patch.setattr(module, "table_rows", wrong)

    return plant


def no_latent_positions(patch: pytest.MonkeyPatch, model: Bagel) -> None:
    table = model.latent_pos_embed
    patch.setitem(table._buffers, "pos_embed", torch.zeros_like(table.pos_embed))


def time_in_thousands(patch: pytest.MonkeyPatch, model: Bagel) -> None:
    embed = model.time_embedder.forward
    patch.setattr(model.time_embedder, "forward", lambda t_S, dtype: embed(t_S * 1000, dtype))


def sine_first(patch: pytest.MonkeyPatch, model: Bagel) -> None:
    linear, features = model.time_embedder.mlp[0], model.time_embedder.features
    patch.setitem(linear._parameters, "weight", nn.Parameter(linear.get_parameter("weight").roll(features // 2, 1)))


def channels_first(patches: Tensor, channels: int) -> Tensor:
    """(dy, dx, channel) numbers of each patch in the order (channel, dy, dx)."""
    return patches.unflatten(-1, (-1, channels)).transpose(-1, -2).flatten(-2)


def latent_channels_first(patch: pytest.MonkeyPatch, model: Bagel) -> None:
    channels = model.config.vae.z_channels
    patch.setattr(parity, "to_tokens", lambda latent, size: channels_first(to_tokens(latent, size), channels))
    patch.setattr(
        parity,
        "from_tokens",
        lambda tokens, grid_hw, size: from_tokens(channels_first(tokens, size**2), grid_hw, size),
    )


def tower_reads_channels_first(patch: pytest.MonkeyPatch, model: Bagel) -> None:
    assert model.config.vision is not None
    read, channels = model.vit_model.forward, model.config.vision.num_channels
    patch.setattr(model.vit_model, "forward", lambda patches, *where: read(channels_first(patches, channels), *where))


def patches_cut_channels_first(patch: pytest.MonkeyPatch, model: Bagel) -> None:
    assert model.config.vision is not None
    channels = model.config.vision.num_channels
    patch.setattr(parity, "to_patches", lambda image, size: channels_first(to_patches(image, size), channels))


def no_last_tower_norm(patch: pytest.MonkeyPatch, model: Bagel) -> None:
    patch.setitem(model.vit_model.vision_model._modules, "post_layernorm", nn.Identity())


def as_many_evaluations_as_points(patch: pytest.MonkeyPatch, _: Bagel) -> None:
    patch.setattr(parity, "time_grid", lambda num_points, shift: time_grid(num_points + 1, shift))


def no_shift(patch: pytest.MonkeyPatch, _: Bagel) -> None:
    patch.setattr(parity, "time_grid", lambda num_points, _: time_grid(num_points, 1.0))


def steps_along_the_velocity(patch: pytest.MonkeyPatch, _: Bagel) -> None:
    patch.setattr(denoise, "ode_step", lambda x, v, t, t_next: ode_step(x, -v, t, t_next))


def no_renorm(patch: pytest.MonkeyPatch, _: Bagel) -> None:
    patch.setattr(guidance, "shrunk", lambda guided, *_: guided)
