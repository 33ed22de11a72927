"""An adaptive regulariser: its weight after each step by hand, and through a checkpoint."""

from pathlib import Path

import pytest

from configs.schema import TrainConfig
from learner.learner import Learner
from learner.optimizer import Rank
from tests.learner.tiny import make_config, make_learner, sample_step
from unigrpo.algo.flow import rescale_to_elements

ADVANTAGES = (1.0, -1.0, 0.5, -0.5)
TARGET, RATE = 0.01, 0.2


def config_of(model: Path, run_dir: Path) -> TrainConfig:
    regulariser = {"kind": "adaptive_velocity_mse", "weight": 1e-3, "target": TARGET, "rate": RATE}
    return make_config(model, run_dir, "flow_grpo", algorithm__regulariser=regulariser)


def learned(learner: Learner, config: TrainConfig, step: int) -> dict[str, float]:
    return learner.update(step, [sample_step(config, step, ADVANTAGES)])


def test_the_weight_follows_the_drift_of_each_step(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = config_of(model, tmp_path)
    learner = make_learner(config, rank)
    rows = [learned(learner, config, step) for step in range(3)]
    expected = least = rescale_to_elements(1e-3, 64)
    for row in rows:
        assert row["flow/regulariser_weight"] == pytest.approx(expected)
        drift = row["flow/velocity_shift_rms"] / row["flow/reference_velocity_rms"]
        expected = max(least, expected * (1 + RATE * min(max(drift / TARGET - 1, -1), 1)))
    assert rows[0]["flow/velocity_shift_rms"] == 0.0 < rows[1]["flow/velocity_shift_rms"]
    assert rows[2]["flow/regulariser_weight"] > rows[1]["flow/regulariser_weight"] == rows[0]["flow/regulariser_weight"]


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_weight_that_is_told_is_the_one_of_the_loss(adaptive: bool, model: Path, tmp_path: Path, rank: Rank) -> None:
    config = config_of(model, tmp_path) if adaptive else make_config(model, tmp_path, "flow_grpo")
    learner = make_learner(config, rank)
    rows = [learned(learner, config, step) for step in range(4)]
    for row in rows[1:]:
        penalty = row["flow/regulariser_weight"] * row["flow/velocity_shift_rms"] ** 2
        assert penalty > 1e-7
        assert row["loss/regulariser"] == pytest.approx(penalty, rel=1e-9)
        assert row["loss"] - row["loss/flow"] == pytest.approx(penalty, rel=1e-6)
    assert adaptive == (rows[3]["flow/regulariser_weight"] > 1.2 * rows[0]["flow/regulariser_weight"])


def test_a_resumed_run_goes_on_with_its_weight(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = config_of(model, tmp_path)
    learner = make_learner(config, rank)
    for step in range(2):
        learned(learner, config, step)
    learner.save(2)
    resumed = make_learner(config, rank)
    assert resumed.restore() == 2
    assert learned(resumed, config, 2) == learned(learner, config, 2)


def test_a_checkpoint_without_the_weight_is_refused(
    model: Path, tmp_path: Path, rank: Rank, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(model, tmp_path)
    learner = make_learner(config, rank)
    monkeypatch.setattr(learner._objective, "state", dict)
    learner.save(1)
    with pytest.raises(ValueError, match="the checkpoint holds no flow/regulariser_weight"):
        make_learner(config, rank).restore()
