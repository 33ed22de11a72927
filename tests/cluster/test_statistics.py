"""Rollout statistics, worked out by hand."""

from dataclasses import replace

import pytest

from cluster.judging import Tally
from cluster.statistics import rollout_statistics
from configs.verifiers import RandomReward
from tests.cluster.fakes import fake_group


def test_statistics_of_two_groups() -> None:
    groups = [fake_group(0, "counting", [1.0, 0.0], tokens=2), fake_group(1, "counting", [0.5, 0.5], tokens=6)]
    statistics = rollout_statistics(
        groups, Tally(groups=3, dropped=1, asked=9, retried=2, cached=4, failed=3), RandomReward(), {}
    )
    assert statistics == pytest.approx(
        {
            "reward/mean": 0.5,
            "reward/group_std": 0.25,
            "reward/strict": 0.5,
            "reward/graded": 0.25,
            "reward/geneval": 1.5,
            "thought/tokens": 4.0,
            "thought/truncated": 0.5,
            "groups/asked": 3,
            "groups/dropped": 1,
            "groups/zero_variance": 1,
            "scores/asked": 9,
            "scores/retried": 2,
            "scores/cached": 4,
            "scores/failed": 3,
        }
    )


def test_without_thoughts_nothing_is_said_of_them() -> None:
    groups = [fake_group(0, "counting", [1.0, 0.0], num_thoughts=0)]
    statistics = rollout_statistics(groups, Tally(groups=1), RandomReward(), {})
    assert not [name for name in statistics if name.startswith("thought/")]
    assert statistics["reward/mean"] == 0.5


def test_a_breakdown_of_any_names_overwrites_no_statistic() -> None:
    group = fake_group(0, "counting", [1.0, 0.0])
    parts = {"mean": 7.0, "group_std": 8.0, "breakdown/mean": 9.0, "scores/asked": 6.0}
    scores = tuple(replace(score, breakdown=parts) for score in group.scores)
    statistics = rollout_statistics([replace(group, scores=scores)], Tally(groups=1), RandomReward(), {"random": "1"})
    assert (statistics["reward/mean"], statistics["reward/group_std"]) == (0.5, 0.5)
    told = {name: value for name, value in statistics.items() if name.startswith("reward/breakdown/")}
    assert told == {
        "reward/breakdown/mean": 7.0,
        "reward/breakdown/group_std": 8.0,
        "reward/breakdown/breakdown/mean": 9.0,
        "reward/breakdown/scores/asked": 6.0,
    }
    assert statistics["versions"] == {"random": "1"}
