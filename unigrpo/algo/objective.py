"""The joint objective of UniGRPO (arXiv:2603.23500, equations 2, 6, 7 and 8), as losses to minimise.

    loss = -1/N sum_i [ 1/|y_i| sum_k (text surrogate - beta_txt KL) + 1/W sum_w (lambda flow surrogate - beta_img |dv|^2/D) ]

N is the number of real samples on all ranks that one optimizer update sees, passed in as `global_count`: every function returns
a sum over its samples divided by N, so the joint loss is the plain sum over micro-batches, terms and ranks, and how samples are
accumulated, packed or sharded cannot change it. Text and flow micro-batches may hold different samples, but always whole ones:
all tokens, all window steps. `weight_S` is 1 for a sample and 0 for a dummy that only fills a batch up.

lambda weighs the flow surrogate alone, not the velocity MSE beside it. All arithmetic is float64, whatever the inputs.

Shapes: S samples, T tokens, W window steps, L latent tokens, C channels, D = L*C.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unigrpo.algo.flow import log_ratio, normalised_log_ratio
from unigrpo.algo.stats import Stats
from unigrpo.algo.surrogate import clipped, clipped_surrogate, k3_kl, token_mean


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


def text_loss(
    logp_ST: Tensor,
    old_logp_ST: Tensor,
    mask_ST: Tensor,
    advantage_S: Tensor,
    *,
    weight_S: Tensor,
    clip_low: float,
    clip_high: float,
    global_count: int,
    kl_weight: float = 0.0,
    reference_logp_ST: Tensor | None = None,
) -> tuple[Tensor, Stats]:
    """The text term: sequence mean of token means of the clipped surrogate, with an optional k3 KL a token (equation 2).

    Args:
        logp_ST: [S, T] log-probability of each token under the current policy.
        old_logp_ST: [S, T] the learner's own, before the step's first update.
        mask_ST: [S, T] bool, True at tokens the policy sampled (eos among them); what stands elsewhere is not read.
        advantage_S: [S].
        weight_S: [S] 1 or 0.
        clip_low, clip_high: the ratio is clipped to 1 - clip_low .. 1 + clip_high.
        global_count: N.
        kl_weight: beta_txt.
        reference_logp_ST: [S, T] under the reference; with it the KL is measured, whatever its weight.

    Returns:
        The loss, [] float64, and its statistics a token.

    Raises:
        ValueError: a KL weight without a reference, or an impossible clip.
    """
    if kl_weight and reference_logp_ST is None:
        raise ValueError(f"kl_weight is {kl_weight}, but there are no reference log-probabilities; pass them or set it to 0")
    advantage_S1, weight_S = advantage_S.double()[:, None], weight_S.double()
    logp_ST, old_logp_ST = _masked(logp_ST, mask_ST), _masked(old_logp_ST, mask_ST).detach()
    log_ratio_ST = logp_ST - old_logp_ST
    term_ST = clipped_surrogate(log_ratio_ST, advantage_S1, low=clip_low, high=clip_high)
    figures = {}
    if reference_logp_ST is not None:
        kl_ST = k3_kl(logp_ST, _masked(reference_logp_ST, mask_ST).detach())
        term_ST = term_ST - kl_weight * kl_ST
        figures["kl"] = kl_ST
    loss = -(weight_S * token_mean(term_ST, mask_ST)).sum() / global_count
    low_ST, high_ST = clipped(log_ratio_ST, advantage_S1, low=clip_low, high=clip_high)
    stats = _stats(log_ratio_ST, low_ST, high_ST, figures, weight_S[:, None] * mask_ST, dim=(0, 1))
    return loss, stats


def flow_loss(
    mean_SWLC: Tensor,
    old_mean_SWLC: Tensor,
    x_next_SWLC: Tensor,
    std_W: Tensor,
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
        std_W: [W] standard deviation of each transition, sigma * sqrt(h).
        advantage_S: [S].
        weight_S: [S] 1 or 0.
        clip: resolved for this D (`rescale_to_elements`); the ratio is clipped to 1 - clip .. 1 + clip.
        ratio_norm: RatioNorm (equation 5) or the plain log-ratio, each averaged over D.
        flow_weight: lambda.
        global_count: N.
        velocity_SWLC, reference_velocity_SWLC: [S, W, L, C] of the current policy and of the frozen reference at the same x and
            t; both or neither.
        mse_weight: beta_img, resolved for this D; as [W] (weight * `latent_kl_weight`) the regulariser is the latent KL.

    Raises:
        ValueError: only one of the two velocities, or an impossible clip.
    """
    if (velocity_SWLC is None) != (reference_velocity_SWLC is None):
        raise ValueError(
            "the velocity MSE compares a velocity with the reference's, but only one of the two was given; pass both"
        )
    advantage_S1, weight_S1 = advantage_S.double()[:, None], weight_S.double()[:, None]
    std_W11 = std_W[:, None, None]
    ratio = normalised_log_ratio if ratio_norm else log_ratio
    log_ratio_SW = ratio(mean_SWLC, old_mean_SWLC, x_next_SWLC, std_W11)
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
    stats = _stats(log_ratio_SW, low_SW, high_SW, figures, weight_S1.expand_as(log_ratio_SW), dim=(0,))
    return FlowLoss(policy, regulariser, stats)


def velocity_mse(velocity: Tensor, reference_velocity: Tensor) -> Tensor:
    """mean over D of |v - v_ref|^2: [..., L, C] -> [...] float64 (equation 8); no gradient reaches the reference.

    The mean, and no division by the step's length, is the reading under which the paper's weight of 1.5e-5 balances the policy
    gradient (PAPER 1.6, 6).
    """
    return (velocity.double() - reference_velocity.detach().double()).square().mean((-2, -1))


def _masked(value_ST: Tensor, mask_ST: Tensor) -> Tensor:
    """float64 with zeros in the padding, so that neither values nor gradients see what stands there."""
    return torch.where(mask_ST, value_ST.double(), 0.0)


def _stats(
    log_ratio: Tensor, low: Tensor, high: Tensor, figures: dict[str, Tensor], weight: Tensor, *, dim: tuple[int, ...]
) -> Stats:
    """Weighted totals over `dim`; `weight` is 0 where nothing real stands."""
    log_ratio = log_ratio.detach()
    figures = {"log_ratio": log_ratio, "log_ratio_squared": log_ratio**2, "clip_low": low, "clip_high": high, **figures}
    sums = {name: (weight * figure.detach()).sum(dim) for name, figure in figures.items()}
    return Stats(sums={"count": weight.sum(dim), **sums}, maxima={"log_ratio": (weight * log_ratio.abs()).amax(dim)})
