"""UniGRPO's updates once the weights have moved, on a real tiny Bagel: losses, ratios, clips and gradients written out."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from configs.schema import TrainConfig
from learner.learner import Learner
from learner.optimizer import Rank
from tests.learner.tiny import make_config, make_learner, sample_step
from tests.learner.transcribed import policy_of
from tests.learner.written_out import clipped_loss, log_ratios
from unigrpo.models.bagel.checkpoint import load_model
from unigrpo.models.bagel.model import Bagel
from unigrpo.types import Sample

ADVANTAGES = (1.0, -1.0, 0.5, -0.5, 0.0, 0.3, -0.3, 1.2)
CLIPS = {"text": (0.01, 0.03), "flow": (64e-5, 64e-5)}
"""Low and high, narrow enough to bind at once. Flow's stands in the config as 1e-5, for 64^2 times the 64 elements here."""
WEIGHTS = {"text": 1.0, "flow": 3.0}


@pytest.mark.parametrize("ratio_norm", [True, False])
def test_later_passes_follow_the_written_out_ratios_and_clips(
    ratio_norm: bool, model: Path, tmp_path: Path, rank: Rank, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(model, tmp_path, algorithm__ppo_epochs=3, algorithm__ratio_norm=ratio_norm)
    samples = sample_step(config, 0, ADVANTAGES)
    learner = make_learner(config, rank)
    policies = found_by_updates(learner, model, monkeypatch)
    metrics = learner.update(0, [samples])
    expected = written_out(config, policies, [samples] * 3, load_model(model).model)
    assert min(expected[f"{term}/clip_{side}"] for term in CLIPS for side in ("low", "high")) > 0.1
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_second_mini_batch_is_held_against_the_weights_before_the_first(
    model: Path, tmp_path: Path, rank: Rank, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(model, tmp_path, algorithm__mini_batches=2)
    samples = sample_step(config, 0, ADVANTAGES)
    learner = make_learner(config, rank)
    policies = found_by_updates(learner, model, monkeypatch)
    metrics = learner.update(0, [samples[:4], samples[4:]])
    expected = written_out(config, policies, [samples[:4], samples[4:]], load_model(model).model)
    assert min(expected[f"{term}/log_ratio_max"] for term in CLIPS) > 1e-4
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-6)


def config_of(model: Path, run_dir: Path, **changes: Any) -> TrainConfig:
    return make_config(
        model,
        run_dir,
        algorithm__text_clip=CLIPS["text"],
        algorithm__flow_clip=1e-5,
        algorithm__flow_weight=WEIGHTS["flow"],
        algorithm__regulariser={"kind": "none"},
        **changes,
    )


def found_by_updates(learner: Learner, model: Path, monkeypatch: pytest.MonkeyPatch) -> list[Bagel]:
    """Fills up with the policy as every update to come finds it."""
    update, found = learner._engine.update, []

    def noting(*given: Any) -> Any:
        found.append(policy_of(learner, model))
        return update(*given)

    monkeypatch.setattr(learner._engine, "update", noting)
    return found


def written_out(
    config: TrainConfig, policies: Sequence[Bagel], batches: Sequence[Sequence[Sample]], old: Bagel
) -> dict[str, float]:
    """The metrics of a step whose updates found these policies, each with its batch."""
    updates, ratios = [], []
    for policy, samples in zip(policies, batches, strict=True):
        ratios.append(log_ratios(policy, old, config, samples))
        losses = {term: WEIGHTS[term] * clipped_loss(ratios[-1][term], *clip) for term, clip in CLIPS.items()}
        torch.stack([*losses.values()]).sum().backward()
        told = {f"loss/{term}": loss.item() for term, loss in losses.items()}
        for expert, parameters in {"text": policy.text_parameters(), "generation": policy.generation_parameters()}.items():
            gradients = [value.grad.flatten() for _, value in parameters if value.grad is not None]
            told[f"grad_norm/{expert}"] = torch.cat(gradients).norm().item()
        updates.append(told)
    expected = {name: fmean(told[name] for told in updates) for name in updates[0]}
    for term, (low, high) in CLIPS.items():
        pairs = [(ratio, advantage) for each in ratios for advantage, ratio_N in each[term] for ratio in ratio_N.tolist()]
        expected |= {
            f"{term}/log_ratio_max": max(abs(ratio) for ratio, _ in pairs),
            f"{term}/log_ratio_mean": fmean(ratio for ratio, _ in pairs),
            f"{term}/clip_low": fmean(advantage < 0 and ratio < math.log(1 - low) for ratio, advantage in pairs),
            f"{term}/clip_high": fmean(advantage > 0 and ratio > math.log(1 + high) for ratio, advantage in pairs),
        }
    return expected
