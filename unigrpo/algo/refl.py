"""ReFL: climbing a differentiable reward through one late denoising step (ImageReward, arXiv:2304.05977, algorithm 1).

The policy paints without gradient down to a step drawn among the last ones; from there it predicts the finished picture in one
go, with gradient, and the reward model's score of that picture is climbed.

Left out on purpose: the paper's fine-tuning loss beside the reward, and its map of scores, which saturates above a mark that
only its own reward model's scale gives a meaning (docs/deviations.md).

Shapes: S samples, L latent tokens, C channels.
"""

import torch
from torch import Tensor

from unigrpo.algo.flow import Time
from unigrpo.algo.stats import Stats


def predicted_clean(x: Tensor, v: Tensor, t: Time) -> Tensor:
    """x_0 = x_t - t v: where the flow would end if its velocity stayed as it is now, in the dtype of x.

    x and v are [..., L, C]; t is a number or a tensor that broadcasts against them.
    """
    return x - torch.as_tensor(t).to(x) * v.to(x.dtype)


def refl_loss(score_S: Tensor, *, weight_S: Tensor, global_count: int) -> tuple[Tensor, Stats]:
    """The mean score, negated: -1/N sum_i score_i.

    Args:
        score_S: [S] of the reward model, with gradients to the pictures.
        weight_S: [S] 1, or 0 for a dummy.
        global_count: N, paintings on all ranks that one optimizer update sees.

    Returns:
        The loss, [] float64, and the scores' statistics.
    """
    score_S, weight_S = score_S.double(), weight_S.double()
    seen_S = score_S.detach()
    sums = {
        "count": weight_S.sum(),
        "score": (weight_S * seen_S).sum(),
        "score_squared": (weight_S * seen_S**2).sum(),
    }
    stats = Stats(sums=sums, maxima={"score": (weight_S * seen_S.abs()).max()})
    return -(weight_S * score_S).sum() / global_count, stats
