"""Paintings of a mini-batch as rows that every rank can go through in step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from learner.batch import Row, credited
from learner.terms.base import Shares, Term, share
from learner.window import Window
from unigrpo.contexts import ContextSpan, without_last_text
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.packing import Noised, splits_of
from unigrpo.types import Sample, Trajectory


def painting_shares(
    term: Term[Any],
    step: int,
    samples: Sequence[Sample],
    noised: Callable[[Trajectory], Sequence[Noised]],
    *,
    guided: bool = False,
) -> Shares:
    """One row a painting with its `noised` latents, cut by learner.flow_micro_batch; fillers are paintings of zeros.

    `guided` rows hold the latents once more, without the prompt. A collective call.
    """
    config, model = term.config, term.model.config
    rows = [row for sample in samples for row in painting_rows(sample, model, noised, guided=guided)]
    grid_hw = model.grid_hw(config.sampler.height, config.sampler.width)
    nothing = dummy_trajectory(Window.of(config, step), grid_hw, model.latent_channels)
    filler = dummy_row(nothing, noised(nothing), guided=guided)
    return share(rows, config.learner.flow_micro_batch, samples, term.engine, term.model, filler=[filler])


def painting_rows(
    sample: Sample,
    config: BagelConfig,
    noised: Callable[[Trajectory], Sequence[Noised]],
    *,
    guided: bool = False,
) -> list[Row]:
    """One row a painting: what the policy had read and said by then, and noised latents of the painting over it."""
    rows = []
    context: list[ContextSpan] = []
    for span, advantage in credited(sample):
        if not isinstance(span, Trajectory):
            context.append(span)
            continue
        latents = noised(span)
        splits = (*splits_of(context, config), *latents)
        unprompted = (*splits_of(without_last_text(context), config), *latents) if guided else ()
        rows.append(
            Row(
                splits=splits,
                thoughts={},
                trajectory=span,
                unprompted=unprompted,
                advantages=(advantage,),
                prompt=sample.prompt,
            )
        )
    return rows


def dummy_trajectory(window: Window, grid_hw: tuple[int, int], num_channels: int) -> Trajectory:
    """A painting of zeros, as long as this window's, for batches that only keep step with other ranks."""
    latent_LC = torch.zeros(grid_hw[0] * grid_hw[1], num_channels)
    latents_WLC = latent_LC.expand(window.size, *latent_LC.shape)
    start = window.starts[0] if window.starts else 0
    return Trajectory(
        x_WLC=latents_WLC,
        x_next_WLC=latents_WLC,
        mean_WLC=latents_WLC,
        start=start,
        grid_N=window.grid_N,
        sigma_W=window.sigma(start),
        latent_LC=latent_LC,
        grid_hw=grid_hw,
        cfg_scale=1.0,
        policy_version=0,
    )


def dummy_row(trajectory: Trajectory, noised: Sequence[Noised], *, guided: bool = False) -> Row:
    """A painting over no context that weighs nothing."""
    splits = tuple(noised)
    unprompted = splits if guided else ()
    return Row(splits=splits, thoughts={}, trajectory=trajectory, unprompted=unprompted, advantages=(0.0,), weight=0.0)
