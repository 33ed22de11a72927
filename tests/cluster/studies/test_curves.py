"""What the curves of a study are of."""

from pathlib import Path

import pytest

from cluster.studies.curves import band, bands_of, curves_line, smoothed, titles_of
from cluster.studies.rewards import reward_text
from tests.cluster.studies.fakes import fake_result, fake_study

GRADED = {"reward.kind": "geneval", "reward.score": "graded"}


def test_curves_are_means_and_spread_over_runs() -> None:
    assert band([[(0, 0.1), (5, 0.4)], [(0, 0.3)]]) == [(0, pytest.approx(0.2), 0.1, 0.3), (5, 0.4, 0.4, 0.4)]
    assert smoothed([(1, 0.0), (2, 1.0), (3, 0.5)], width=2) == [(2, 0.5), (3, 0.5)]


def test_rewards_are_plotted_of_rows_that_share_one_and_runs_of_their_first_start(tmp_path: Path) -> None:
    rows = {row: {"config": "../shapes/unigrpo.yaml", "starts": ["sft", "base"]} for row in ("text_grpo", "random", "unigrpo")}
    elsewhere = {"reward": [(1, 9.0)], "validation": [(0, 9.0)]}
    results = [
        fake_result("text_grpo", "sft", 0, 0.7, config=GRADED),
        *(fake_result("random", "sft", seed, 0.5, config={"reward.kind": "random"}) for seed in (0, 1, 2)),
        fake_result("unigrpo", "sft", 0, 0.7, config=GRADED),
        fake_result("unigrpo", "base", 0, 0.7, config=GRADED, curves=elsewhere),
    ]
    study = fake_study(tmp_path, rows=rows)
    training, validation = bands_of(study, results)
    shown = {row: points[-1] for row, points in training.items()}
    assert shown == dict.fromkeys(("text_grpo", "unigrpo"), (2, 0.55, 0.55, 0.55))
    assert {row: points[-1] for row, points in validation.items()} == dict.fromkeys(rows, (2, 0.5, 0.5, 0.5))
    assert titles_of(study, results) == ("training reward (geneval graded), means of 10 steps", "validation score, think")
    assert curves_line(study, results).endswith("stand in the second plot alone: random.")


def test_a_run_whose_first_stage_climbs_a_reward_model_shares_no_reward(tmp_path: Path) -> None:
    climbing = GRADED | {"algorithm.reward_model.model": "shapes", "then.algorithm.kind": "text_grpo"}
    results = [
        fake_result("unigrpo", "sft", 0, 0.7, config=GRADED),
        fake_result("text_grpo", "sft", 0, 0.7, config=climbing),
    ]
    assert curves_line(fake_study(tmp_path), results).endswith("stand in the second plot alone: text_grpo.")
    assert [reward_text(each) for each in results] == ["geneval graded", "differentiable, then geneval graded"]
