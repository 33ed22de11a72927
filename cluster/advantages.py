"""Judged groups to advantages: one reward, or several normalised apart."""

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor

from cluster.rollouts import Group
from configs.reward import CombinedReward, Reward
from unigrpo.algo.advantage import decoupled_advantages, group_advantages, zero_variance


def advantages_of(groups_P: Sequence[Group], reward: Reward) -> Tensor:
    """[P, G] float64: GRPO on the scores, or GDPO on those of each part where the reward asks for it."""
    rewards_KPG = rewards_of(groups_P, reward)
    if _is_decoupled(reward):
        return decoupled_advantages(rewards_KPG, [reward.weights[name] for name in reward.parts])
    return group_advantages(rewards_KPG[0])


def num_without_variance(groups_P: Sequence[Group], reward: Reward) -> int:
    """Groups from which nothing is to be learned: every sibling earned the same, in every part that counts for itself."""
    return int(torch.stack([zero_variance(rewards_PG) for rewards_PG in rewards_of(groups_P, reward)]).all(0).sum())


def rewards_of(groups_P: Sequence[Group], reward: Reward) -> Tensor:
    """[K, P, G] float64: the K rewards that are normalised apart; one, but for a combined reward of advantages."""
    if _is_decoupled(reward):
        return torch.tensor(
            [[[score.breakdown[name] for score in group.scores] for group in groups_P] for name in reward.parts],
            dtype=torch.float64,
        )
    return torch.tensor([[[score.value for score in group.scores] for group in groups_P]], dtype=torch.float64)


def _is_decoupled(reward: Reward) -> TypeGuard[CombinedReward]:
    return isinstance(reward, CombinedReward) and reward.combine == "advantages"
