"""Group-relative advantages: each painting against its siblings (GRPO, arXiv:2402.03300; UniGRPO equation 1).

Where a thought is painted once, the same advantage drives the text and the flow term of a sample. Where it is painted several
times, thought and paintings are credited apart: a thought for what its paintings earned on average, a painting for what it
earned beside the others of its thought.

Shapes: P prompts, G siblings of one prompt, M thoughts of one prompt, K paintings of one thought, R rewards of one painting.
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
    _require_finite(rewards_PG)
    rewards_PG = rewards_PG.double()
    mean_P1, std_P1 = rewards_PG.mean(1, keepdim=True), rewards_PG.std(1, keepdim=True, correction=0)
    advantages_PG = (rewards_PG - mean_P1) / (std_P1 + eps)
    return torch.where(zero_variance(rewards_PG)[:, None], 0.0, advantages_PG)


def nested_advantages(rewards_PMK: Tensor, *, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """[P, M] of thoughts and [P, M, K] of their paintings, float64.

    A thought's is the group advantage of its paintings' mean reward among the M thoughts of its prompt. A painting's is its
    deviation from that mean, divided by the root mean square of all such deviations of its prompt + eps: one scale a prompt, so
    that a thought whose paintings hardly differ does not speak as loud as one whose paintings do. Paintings of a thought that
    all earned the same get exactly zero.

    One painting a thought is not nested: it has nothing to be compared with under its thought, and both are the group advantage
    of the paper. That is no limit of the above, whose paintings would then all get zero.

    Raises:
        ValueError: a reward is not finite, naming the group.
    """
    if rewards_PMK.shape[2] == 1:
        advantages_PM = group_advantages(rewards_PMK[:, :, 0], eps=eps)
        return advantages_PM, advantages_PM[:, :, None]
    _require_finite(rewards_PMK.flatten(1))
    rewards_PMK = rewards_PMK.double()
    mean_PM = rewards_PMK.mean(2)
    same_PM1 = rewards_PMK.amax(2, keepdim=True) == rewards_PMK.amin(2, keepdim=True)
    deviation_PMK = torch.where(same_PM1, 0.0, rewards_PMK - mean_PM[:, :, None])
    rms_P11 = deviation_PMK.square().mean((1, 2), keepdim=True).sqrt()
    return group_advantages(mean_PM, eps=eps), deviation_PMK / (rms_P11 + eps)


def decoupled_advantages(rewards_RPG: Tensor, weights_R: Sequence[float], *, eps: float = 1e-6) -> Tensor:
    """[P, G] float64 for R rewards of every painting (GDPO, arXiv:2601.05242).

    Each reward is centred and scaled within its own groups, as group_advantages does; their weighted sum is divided by its
    population standard deviation over the whole batch + eps, so that its size does not grow with R. (Its mean over the batch is
    0 by itself, as every group's is.) Two rewards of different spread thus count alike, and weights mean what they say.

    Raises:
        ValueError: a reward is not finite, or there is not one weight a reward.
    """
    _require_weights(rewards_RPG, weights_R)
    return _combined([group_advantages(rewards_PG, eps=eps) for rewards_PG in rewards_RPG], weights_R, eps)


def decoupled_nested_advantages(
    rewards_RPMK: Tensor, weights_R: Sequence[float], *, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """[P, M] of thoughts and [P, M, K] of their paintings for R rewards: decoupled_advantages of nested_advantages.

    Thoughts and paintings are each divided by their own deviation over the batch.

    Raises:
        ValueError: as decoupled_advantages.
    """
    _require_weights(rewards_RPMK, weights_R)
    nested_R = [nested_advantages(rewards_PMK, eps=eps) for rewards_PMK in rewards_RPMK]
    thought_PM = _combined([thought_PM for thought_PM, _ in nested_R], weights_R, eps)
    return thought_PM, _combined([image_PMK for _, image_PMK in nested_R], weights_R, eps)


def _combined(parts_R: Sequence[Tensor], weights_R: Sequence[float], eps: float) -> Tensor:
    total = torch.einsum("r,r...->...", torch.tensor(weights_R, dtype=torch.float64), torch.stack(list(parts_R)))
    return total / (total.std(correction=0) + eps)


def _require_finite(rewards_PG: Tensor) -> None:
    finite_P = rewards_PG.isfinite().all(1)
    if not bool(finite_P.all()):
        group = int((~finite_P).nonzero()[0])
        raise ValueError(
            f"group {group} holds a reward that is not finite: {rewards_PG[group].tolist()}; drop the group, count it"
        )


def _require_weights(rewards_R: Tensor, weights_R: Sequence[float]) -> None:
    if len(weights_R) != len(rewards_R):
        raise ValueError(f"got {len(weights_R)} weights for {len(rewards_R)} rewards; give one a reward")
