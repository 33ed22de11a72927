"""Group-relative advantages: each painting against its siblings (GRPO, arXiv:2402.03300; UniGRPO equation 1).

The same advantage drives the text and the flow term of a sample.

Shapes: P prompts, G siblings of one prompt, K rewards of one painting.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def zero_variance(rewards_PG: Tensor) -> Tensor:
    """[P] bool: every sibling earned the same, so nothing is to be learned from the group.

    Asked as max == min: the computed deviation of 24 rewards of .7 is not zero, and dividing by it would make noise a signal.
    """
    return rewards_PG.amax(1) == rewards_PG.amin(1)


def group_advantages(rewards_PG: Tensor, *, eps: float = 1e-6) -> Tensor:
    """[P, G] float64: rewards centred on their group's mean and divided by its population standard deviation + eps.

    eps keeps rewards that differ by rounding alone near zero. Groups of zero variance get exactly zero.

    Raises:
        ValueError: a reward is not finite, naming the group.
    """
    finite_P = rewards_PG.isfinite().all(1)
    if not bool(finite_P.all()):
        group = int((~finite_P).nonzero()[0])
        raise ValueError(
            f"group {group} holds a reward that is not finite: {rewards_PG[group].tolist()}; drop the group, count it"
        )
    rewards_PG = rewards_PG.double()
    mean_P1, std_P1 = rewards_PG.mean(1, keepdim=True), rewards_PG.std(1, keepdim=True, correction=0)
    advantages_PG = (rewards_PG - mean_P1) / (std_P1 + eps)
    return torch.where(zero_variance(rewards_PG)[:, None], 0.0, advantages_PG)


def decoupled_advantages(rewards_KPG: Tensor, weights_K: Sequence[float], *, eps: float = 1e-6) -> Tensor:
    """[P, G] float64 for K rewards of every painting (GDPO, arXiv:2601.05242).

    Each reward is centred and scaled within its own groups, as group_advantages does; their weighted sum is divided by its
    population standard deviation over the whole batch + eps, so that its size does not grow with K. (Its mean over the batch is
    0 by itself, as every group's is.) Two rewards of different spread thus count alike, and weights mean what they say.

    Raises:
        ValueError: a reward is not finite, or there is not one weight a reward.
    """
    if len(weights_K) != len(rewards_KPG):
        raise ValueError(f"got {len(weights_K)} weights for {len(rewards_KPG)} rewards; give one a reward")
    parts_KPG = torch.stack([group_advantages(rewards_PG, eps=eps) for rewards_PG in rewards_KPG])
    total_PG = torch.einsum("k,kpg->pg", torch.tensor(weights_K, dtype=torch.float64), parts_KPG)
    return total_PG / (total_PG.std(correction=0) + eps)
