"""Judged groups to advantages: one reward, or several normalised apart; one painting a thought, or several.

Shapes: P prompts, G siblings of one prompt, M thoughts of one prompt, K paintings of one thought, R rewards of one painting.
"""

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor

from cluster.rollouts import Group
from configs.reward import CombinedReward, Reward
from unigrpo.algo.advantage import decoupled_nested_advantages, nested_advantages, zero_variance


def advantages_of(groups_P: Sequence[Group], reward: Reward) -> tuple[Tensor, Tensor]:
    """[P, M] of thoughts and [P, G] of paintings, float64: GRPO on the scores, or GDPO on those of each part where the reward
    asks for it. Where nothing was thought, every painting counts as one of its own thought.
    """
    rewards_RPMK = rewards_of(groups_P, reward).unflatten(2, (-1, groups_P[0].images_per_thought))
    if _is_decoupled(reward):
        weights_R = [reward.weights[name] for name in reward.parts]
        thought_PM, image_PMK = decoupled_nested_advantages(rewards_RPMK, weights_R)
    else:
        thought_PM, image_PMK = nested_advantages(rewards_RPMK[0])
    return thought_PM, image_PMK.flatten(1)


def num_without_variance(groups_P: Sequence[Group], reward: Reward) -> int:
    """Groups from which nothing is to be learned: every sibling earned the same, in every part that counts for itself."""
    return int(torch.stack([zero_variance(rewards_PG) for rewards_PG in rewards_of(groups_P, reward)]).all(0).sum())


def rewards_of(groups_P: Sequence[Group], reward: Reward) -> Tensor:
    """[R, P, G] float64: the R rewards that are normalised apart; one, but for a combined reward of advantages."""
    if _is_decoupled(reward):
        return torch.tensor(
            [[[score.breakdown[name] for score in group.scores] for group in groups_P] for name in reward.parts],
            dtype=torch.float64,
        )
    return torch.tensor([[[score.value for score in group.scores] for group in groups_P]], dtype=torch.float64)


def _is_decoupled(reward: Reward) -> TypeGuard[CombinedReward]:
    return isinstance(reward, CombinedReward) and reward.combine == "advantages"
