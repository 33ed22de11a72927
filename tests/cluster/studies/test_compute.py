"""What a run cost and its curves, read from the metrics of its stages."""

from typing import Any

import pytest

from cluster.studies.compute import panel_rows, training_compute, training_curves
from configs.load import QUICKSTART, load
from configs.schema import TrainConfig


def a_stage(steps: int) -> TrainConfig:
    config = load(QUICKSTART, [f"steps={steps}", "rollout.group_size=4"])
    assert isinstance(config, TrainConfig)
    return config  # one pass over two mini-batches: two updates a step


def train_row(step: int, reward: float, asked: int = 8) -> dict[str, Any]:
    seconds = {"seconds/rollout": 1.0, "seconds/update": 2.0, "seconds/sync": 0.5, "seconds/reasoner": 0.25}
    return {"kind": "train", "step": step, "reward/mean": reward, "groups/asked": asked, **seconds}


def evaluation_row(step: int, strict: float) -> dict[str, Any]:
    scores = {"strict": strict, "headline": {"score": "strict", "over": "pictures"}, "category_mean": {}}
    return {"kind": "evaluation", "step": step, "seconds/evaluation": 3.0, **scores}


STAGES: list[tuple[TrainConfig, list[dict[str, Any]]]] = [
    (a_stage(2), [evaluation_row(0, 0.1), train_row(1, 0.5), train_row(2, 0.6), evaluation_row(2, 0.2)]),
    (a_stage(1), [evaluation_row(0, 0.2), train_row(1, 0.7, asked=7), {"kind": "evaluation", "step": 1, "unscored": 2}]),
]


def test_pictures_updates_and_seconds_are_those_of_all_stages() -> None:
    found = training_compute(STAGES)
    assert (found["steps"], found["images"], found["updates"]) == (3, (8 + 8 + 7) * 4, 6)
    assert found["seconds"] == {"rollout": 3, "update": 6, "sync": 1.5, "reasoner": 0.75, "evaluation": 9, "training": 19.5}


def test_steps_of_a_second_stage_follow_on_the_first() -> None:
    assert training_curves(STAGES) == {"reward": [(1, 0.5), (2, 0.6), (3, 0.7)], "validation": [(0, 0.1), (2, 0.2)]}


def test_how_updates_went_is_told_in_means_of_ten_steps() -> None:
    drift = {"flow/velocity_shift_rms": 0.5, "flow/reference_velocity_rms": 2.0}
    rows = [train_row(step, 0.5) | drift | {"text/clip_fraction": step / 10} for step in range(1, 13)]
    found = training_curves([(a_stage(12), rows)])
    assert found["drift"] == [(10, 0.25), (12, 0.25)]
    assert [value for _, value in found["text clipped"]] == pytest.approx([0.55, 1.15])
    assert "flow clipped" not in found


def test_panels_of_both_stages_without_the_clock() -> None:
    panel = {"kind": "panel", "step": 1, "gap": 0.1, "alarm/gap": True, "seconds/panel": 2.0}
    stages = [(a_stage(2), [panel]), (a_stage(1), [train_row(1, 0.5), panel])]
    told = {"kind": "panel", "gap": 0.1, "alarm/gap": True}
    assert panel_rows(stages) == [told | {"step": 1}, told | {"step": 3}]


def test_nothing_trained_cost_nothing() -> None:
    assert training_compute([]) == {"steps": 0, "images": 0, "updates": 0, "seconds": {"training": 0}}
