"""Numbers of one step's rollouts, worked out from what the driver holds."""

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Any

from cluster.rollouts import Group, Tally


def rollout_statistics(groups_P: Sequence[Group], tally: Tally) -> dict[str, Any]:
    """Reward, thought and drop statistics of the groups that were trained on, by metric name."""
    scores = [score for group in groups_P for score in group.scores]
    thoughts = [thought for group in groups_P for thought in group.thoughts]
    rewards_PG = [[score.value for score in group.scores] for group in groups_P]
    partial = sorted(name for name, value in scores[0].breakdown.items() if isinstance(value, float))
    return {
        "reward/mean": fmean(score.value for score in scores),
        "reward/group_std": fmean(pstdev(rewards_G) for rewards_G in rewards_PG),
        "reward/zero_variance": fmean(max(rewards_G) == min(rewards_G) for rewards_G in rewards_PG),
        **{f"reward/{name}": fmean(float(score.breakdown[name]) for score in scores) for name in partial},
        "thought/tokens": fmean(len(thought.token_ids) for thought in thoughts),
        "thought/truncated": fmean(thought.truncated for thought in thoughts),
        "groups/asked": tally.asked,
        "groups/dropped": tally.dropped,
        "scores/retried": tally.retried_scores,
    }
