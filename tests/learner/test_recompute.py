"""Recomputed layers learn exactly what kept ones do: with pictures, with a stopped context, whole or cut up by ZeRO-3."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from configs.schema import TrainConfig
from learner.optimizer import Rank
from tests.learner.tiny import make_config, make_learner, sample_step
from unigrpo.types import GivenPicture, Sample

ADVANTAGES = (1.0, -1.0, 0.5, -0.5)
PICTURE = GivenPicture(latent_LC=torch.ones(4, 16), grid_hw=(2, 2), seen_HW3=torch.full((28, 28, 3), 9, dtype=torch.uint8))


def samples(config: TrainConfig) -> Sequence[Sample]:
    """Two with a picture before the prompt, two without."""
    text = sample_step(config, 1, ADVANTAGES)
    return [replace(each, spans=(PICTURE, *each.spans)) for each in text[:2]] + text[2:]


def moments(config: TrainConfig, rank: Rank) -> dict[str, torch.Tensor]:
    """First moments after one update: the gradient, a tenth of it."""
    learner = make_learner(config, rank)
    learner.update(1, [samples(config)])
    return {name: value.clone() for name, value in learner._engine.state("exp_avg")}


@pytest.mark.parametrize("context_gradient", ["full", "stop"])
@pytest.mark.parametrize("stage", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_gradient_is_the_same(stage: int, context_gradient: str, seeing: Path, tmp_path: Path, rank: Rank) -> None:
    kept, recomputed = (
        moments(
            make_config(
                seeing,
                tmp_path,
                learner__zero_stage=stage,
                learner__trains=["text", "generation", "vision"],
                learner__activation_checkpointing=recompute,
                algorithm__context_gradient=context_gradient,
                logging={"gradients_every": 1},
            ),
            rank,
        )
        for recompute in (False, True)
    )
    assert kept.keys() == recomputed.keys()
    assert any(name.startswith("vit_model.") and bool(value.any()) for name, value in kept.items())
    for name, value in kept.items():
        assert_close(recomputed[name], value, rtol=0, atol=0)
