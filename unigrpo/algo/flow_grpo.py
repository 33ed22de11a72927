"""GRPO on the stochastic steps of paintings (UniGRPO, arXiv:2603.23500, equations 4 to 6 and 8), as a loss to minimise.

    loss = -1/N sum_i 1/W sum_w (lambda clipped surrogate - beta_img |dv|^2/D)

N counts over all ranks what one optimizer update sees and is passed in as `global_count`, as in algo/text_grpo.py. A
micro-batch holds all window steps of its paintings. lambda weighs the surrogate alone, not the velocity MSE beside it. All
arithmetic is float64, whatever the inputs.

Shapes: S paintings, W window steps, L latent tokens, C channels, D = L*C.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unigrpo.algo.flow import log_ratio, normalised_log_ratio
from unigrpo.algo.stats import Stats, ratio_stats
from unigrpo.algo.surrogate import clipped, clipped_surrogate


@dataclass(frozen=True, slots=True)
class FlowLoss:
    """Both flow terms of a micro-batch, apart because their gradients are logged apart."""

    policy: Tensor
    """[] float64: lambda times the clipped surrogate, negated."""
    regulariser: Tensor
    """[] float64: the weighted velocity MSE; 0 without a reference."""
    stats: Stats

    @property
    def total(self) -> Tensor:
        """[] what to call backward on."""
        return self.policy + self.regulariser


def flow_loss(
    mean_SWLC: Tensor,
    old_mean_SWLC: Tensor,
    x_next_SWLC: Tensor,
    std: Tensor,
    advantage_S: Tensor,
    *,
    weight_S: Tensor,
    clip: float,
    ratio_norm: bool,
    flow_weight: float,
    global_count: int,
    velocity_SWLC: Tensor | None = None,
    reference_velocity_SWLC: Tensor | None = None,
    mse_weight: float | Tensor = 0.0,
) -> FlowLoss:
    """The flow term: window mean of the clipped surrogate of the (normalised) ratio, and the velocity MSE (equations 6 and 8).

    Args:
        mean_SWLC: [S, W, L, C] transition means under the current policy.
        old_mean_SWLC: [S, W, L, C] the learner's own, before the step's first update.
        x_next_SWLC: [S, W, L, C] what the sampler drew.
        std: [S, W] standard deviation of each transition, sigma * sqrt(h); [W] where all samples share their steps.
        advantage_S: [S].
        weight_S: [S] 1, or 0 for a dummy that only fills a batch up.
        clip: resolved for this D (`rescale_to_elements`); the ratio is clipped to 1 - clip .. 1 + clip.
        ratio_norm: RatioNorm (equation 5) or the plain log-ratio, each averaged over D.
        flow_weight: lambda.
        global_count: N, paintings on all ranks that one optimizer update sees.
        velocity_SWLC, reference_velocity_SWLC: [S, W, L, C] of the current policy and of the frozen reference at the same x and
            t; both or neither.
        mse_weight: beta_img, resolved for this D; as [W] or [S, W] (weight * `latent_kl_weight`) the regulariser is the latent
            KL.

    Raises:
        ValueError: only one of the two velocities, or an impossible clip.
    """
    if (velocity_SWLC is None) != (reference_velocity_SWLC is None):
        raise ValueError(
            "the velocity MSE compares a velocity with the reference's, but only one of the two was given; pass both"
        )
    advantage_S1, weight_S1 = advantage_S.double()[:, None], weight_S.double()[:, None]
    ratio = normalised_log_ratio if ratio_norm else log_ratio
    log_ratio_SW = ratio(mean_SWLC, old_mean_SWLC, x_next_SWLC, std[..., None, None])
    surrogate_SW = clipped_surrogate(log_ratio_SW, advantage_S1, low=clip, high=clip)
    policy = -flow_weight * (weight_S1 * surrogate_SW).mean(1).sum() / global_count
    regulariser = torch.zeros_like(policy)
    figures = {}
    if velocity_SWLC is not None and reference_velocity_SWLC is not None:
        mse_SW = velocity_mse(velocity_SWLC, reference_velocity_SWLC)
        regulariser = (weight_S1 * mse_weight * mse_SW).mean(1).sum() / global_count
        figures = {
            "velocity_squared": velocity_SWLC.detach().double().square().mean((-2, -1)),
            "reference_velocity_squared": reference_velocity_SWLC.detach().double().square().mean((-2, -1)),
            "velocity_shift_squared": mse_SW,
        }
    low_SW, high_SW = clipped(log_ratio_SW, advantage_S1, low=clip, high=clip)
    stats = ratio_stats(log_ratio_SW, low_SW, high_SW, figures, weight_S1.expand_as(log_ratio_SW), dim=(0,))
    return FlowLoss(policy, regulariser, stats)


def velocity_mse(velocity: Tensor, reference_velocity: Tensor) -> Tensor:
    """mean over D of |v - v_ref|^2: [..., L, C] -> [...] float64 (equation 8); no gradient reaches the reference.

    The mean, and no division by the step's length, is the reading under which the paper's weight of 1.5e-5 balances the policy
    gradient.
    """
    return (velocity.double() - reference_velocity.detach().double()).square().mean((-2, -1))
