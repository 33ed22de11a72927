"""GRPO on thoughts (UniGRPO, arXiv:2603.23500, equation 2), as a loss to minimise.

    loss = -1/N sum_i 1/|y_i| sum_k (clipped surrogate - beta_txt KL)

N counts over all ranks what one optimizer update sees and is passed in as `global_count`: a loss is a sum over its samples
divided by N, so the joint loss is the plain sum over micro-batches, terms and ranks, and how samples are accumulated, packed or
sharded cannot change it. A micro-batch holds whole samples. All arithmetic is float64, whatever the inputs.

Shapes: S samples, T tokens.
"""

import torch
from torch import Tensor

from unigrpo.algo.stats import Stats, ratio_stats
from unigrpo.algo.surrogate import clipped, clipped_surrogate, k3_kl, token_mean


def text_loss(
    logp_ST: Tensor,
    old_logp_ST: Tensor,
    mask_ST: Tensor,
    advantage_ST: Tensor,
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
        advantage_ST: [S, T] of each token's thought.
        weight_S: [S] 1, or 0 for a dummy that only fills a batch up.
        clip_low, clip_high: the ratio is clipped to 1 - clip_low .. 1 + clip_high.
        global_count: N, samples with a thought on all ranks that one optimizer update sees.
        kl_weight: beta_txt.
        reference_logp_ST: [S, T] under the reference; with it the KL is measured, whatever its weight.

    Returns:
        The loss, [] float64, and its statistics a token.

    Raises:
        ValueError: a KL weight without a reference, or an impossible clip.
    """
    if kl_weight and reference_logp_ST is None:
        raise ValueError(f"kl_weight is {kl_weight}, but there are no reference log-probabilities; pass them or set it to 0")
    advantage_ST, weight_S = advantage_ST.double(), weight_S.double()
    logp_ST, old_logp_ST = _masked(logp_ST, mask_ST), _masked(old_logp_ST, mask_ST).detach()
    log_ratio_ST = logp_ST - old_logp_ST
    term_ST = clipped_surrogate(log_ratio_ST, advantage_ST, low=clip_low, high=clip_high)
    figures = {}
    if reference_logp_ST is not None:
        kl_ST = k3_kl(logp_ST, _masked(reference_logp_ST, mask_ST).detach())
        term_ST = term_ST - kl_weight * kl_ST
        figures["kl"] = kl_ST
    loss = -(weight_S * token_mean(term_ST, mask_ST)).sum() / global_count
    low_ST, high_ST = clipped(log_ratio_ST, advantage_ST, low=clip_low, high=clip_high)
    stats = ratio_stats(log_ratio_ST, low_ST, high_ST, figures, weight_S[:, None] * mask_ST, dim=(0, 1))
    return loss, stats


def _masked(value_ST: Tensor, mask_ST: Tensor) -> Tensor:
    """float64 with zeros in the padding, so that neither values nor gradients see what stands there."""
    return torch.where(mask_ST, value_ST.double(), 0.0)
