"""Numbers of one step's rollouts, worked out from what the driver holds."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch

from cluster.advantages import num_without_variance
from cluster.judging import Tally
from cluster.rollouts import Group
from cluster.summary import told_as
from configs.reward import Reward
from unigrpo.types import Thought

OWN = frozenset({"mean", "group_std"})
"""Statistics of the reward itself; parts of a breakdown stand beside them."""


def rollout_statistics(groups_P: Sequence[Group], tally: Tally, reward: Reward, versions: Mapping[str, str]) -> dict[str, Any]:
    """Reward, thought (if there was any) and drop statistics of the groups that were trained on, by metric name."""
    scores = [score for group in groups_P for score in group.scores]
    thoughts = [thought for group in groups_P for thought in group.thoughts]
    rewards_PG = torch.tensor([[score.value for score in group.scores] for group in groups_P], dtype=torch.float64)
    partial = sorted(name for name in scores[0].breakdown if all(_is_number(score.breakdown.get(name)) for score in scores))
    return {
        "reward/mean": fmean(score.value for score in scores),
        "reward/group_std": rewards_PG.std(1, correction=0).mean().item(),
        **{f"reward/{told_as(name, OWN)}": fmean(float(score.breakdown[name]) for score in scores) for name in partial},
        **(_thought_statistics(thoughts) if thoughts else {}),
        "groups/zero_variance": num_without_variance(groups_P, reward),
        **judging_statistics(tally, versions),
    }


def judging_statistics(tally: Tally, versions: Mapping[str, str]) -> dict[str, Any]:
    """What was asked of judges, and the versions of their verifiers by part, by metric name; no versions if none is known."""
    return {
        "groups/asked": tally.groups,
        "groups/dropped": tally.dropped,
        "scores/asked": tally.asked,
        "scores/retried": tally.retried,
        "scores/cached": tally.cached,
        "scores/failed": tally.failed,
        **({"versions": dict(versions)} if versions else {}),
    }


def _thought_statistics(thoughts: Sequence[Thought]) -> dict[str, float]:
    return {
        "thought/tokens": fmean(len(thought.token_ids) for thought in thoughts),
        "thought/truncated": fmean(thought.truncated for thought in thoughts),
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
