"""Rollout statistics, worked out by hand."""

import pytest

from cluster.judging import Tally
from cluster.statistics import rollout_statistics
from configs.verifiers import RandomReward
from tests.cluster.fakes import fake_group


def test_statistics_of_two_groups() -> None:
    groups = [fake_group(0, "counting", [1.0, 0.0], tokens=2), fake_group(1, "counting", [0.5, 0.5], tokens=6)]
    statistics = rollout_statistics(groups, Tally(groups=3, dropped=1, asked=9, retried=2, cached=4, failed=3), RandomReward())
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
