"""Paintings of a mini-batch as rows that every rank can go through in step."""

from collections.abc import Callable, Sequence
from typing import Any

from learner.batch import dummy_row, dummy_trajectory, painting_rows
from learner.terms.base import Shares, Term, share
from learner.window import Window
from unigrpo.models.bagel.packing import Noised
from unigrpo.types import Sample, Trajectory


def painting_shares(
    term: Term[Any], step: int, samples: Sequence[Sample], noised: Callable[[Trajectory], Sequence[Noised]]
) -> Shares:
    """One row a painting with its `noised` latents, cut by learner.flow_micro_batch; fillers are paintings of zeros.

    A collective call.
    """
    config, model = term.config, term.model.config
    rows = [row for sample in samples for row in painting_rows(sample, model, noised)]
    grid_hw = model.grid_hw(config.sampler.height, config.sampler.width)
    nothing = dummy_trajectory(Window.of(config, step), grid_hw, model.latent_channels)
    filler = dummy_row(nothing, noised(nothing))
    return share(rows, config.learner.flow_micro_batch, samples, term.engine, term.model, filler=[filler])
