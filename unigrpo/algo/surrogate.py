"""The clipped policy-gradient surrogate, whatever the ratio is of: a token or a denoising step (PPO, arXiv:1707.06347).

Everything is elementwise; log_ratio and advantage broadcast against each other.

Shapes: S samples, T tokens.
"""

import math

import torch
from torch import Tensor


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, *, low: float, high: float) -> Tensor:
    """min(r A, clip(r, 1 - low, 1 + high) A) with r = exp(log_ratio), clipped in log space before the exponential.

    The minimum binds the ratio from above where A > 0 and from below elsewhere, never on both sides, and so it is written.

    Raises:
        ValueError: low is not within (0, 1) or high is not positive.
    """
    low_bound, high_bound = _log_bounds(low, high)
    bound = torch.where(advantage > 0, log_ratio.clamp(max=high_bound), log_ratio.clamp(min=low_bound))
    return bound.exp() * advantage


def clipped(log_ratio: Tensor, advantage: Tensor, *, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Two bool tensors: where the lower and where the upper clip binds, that is where `clipped_surrogate` has no gradient."""
    low_bound, high_bound = _log_bounds(low, high)
    return (advantage < 0) & (log_ratio < low_bound), (advantage > 0) & (log_ratio > high_bound)


def k3_kl(logp: Tensor, reference_logp: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference) at sampled tokens: q - 1 - log q >= 0, q = reference / policy."""
    log_q = reference_logp - logp
    return torch.expm1(log_q) - log_q


def token_mean(term_ST: Tensor, mask_ST: Tensor) -> Tensor:
    """[S] mean over each sequence's own tokens (mask True); 0 for a sequence without any."""
    return (term_ST * mask_ST).sum(1) / mask_ST.sum(1).clamp(min=1)


def _log_bounds(low: float, high: float) -> tuple[float, float]:
    if not (0 < low < 1 and high > 0):
        raise ValueError(
            f"a ratio is clipped to 1 - low .. 1 + high with 0 < low < 1 and high > 0, but got low={low}, high={high}"
        )
    return math.log1p(-low), math.log1p(high)
