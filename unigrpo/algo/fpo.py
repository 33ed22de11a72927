"""FPO: flow-matching losses in the place of log-probabilities (McAllister et al., arXiv:2507.21053).

The loss of flow matching bounds how likely a policy is to paint a picture, so the difference of the old and the current
policy's losses of that picture stands for the log-ratio that PPO clips. No denoising step is recorded and none need be
stochastic: the finished latent is noised afresh, x_t = (1-t) x_0 + t eps, at the same (t, eps) for both policies.

    CFM(t, eps) = |v(x_t, t) - (eps - x_0)|^2 / D
    log r       = clamp(mean over draws [CFM_old - CFM], -c, c)
    loss        = -1/N sum_i min(r_i A_i, clip(r_i, 1-e, 1+e) A_i)

Where this differs from the authors' own code is argued in docs/deviations.md. All losses and ratios are float64.

Shapes: S samples, K draws of one sample, L latent tokens, C channels, D = L*C.
"""

from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from unigrpo.algo.flow import shifted_time
from unigrpo.algo.stats import Stats, ratio_stats
from unigrpo.algo.surrogate import clipped, clipped_surrogate
from unigrpo.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Draws:
    """Where flow-matching losses of a picture are taken. Example: 8 draws of a 4x4-token picture -> noise_KLC [8, 16, 64]."""

    t_K: Tensor
    """[K] float64 flow times in [0, 1)."""
    noise_KLC: Tensor
    """[K, L, C] float32 standard normal."""

    def noised(self, latent_LC: Tensor) -> Tensor:
        """[K, L, C]: x_t = (1-t) x_0 + t eps of every draw, in the dtype of the latent."""
        t_K11 = self.t_K[:, None, None].to(latent_LC)
        return (1 - t_K11) * latent_LC + t_K11 * self.noise_KLC


def draws_for(latent_LC: Tensor, *, seed: int, step: int, num_draws: int, shift: float) -> Draws:
    """The draws of a picture in one step: a function of the run's seed, the step and the latent itself, [L, C] on the CPU.

    So they stay fixed for the whole step and belong to the picture, whatever rank or micro-batch it comes to. t is uniform,
    then shifted as the sampler's time grid is.
    """
    picture = blake2b(latent_LC.contiguous().numpy().tobytes(), digest_size=16).hexdigest()
    generator = torch.Generator().manual_seed(derive_seed(seed, "fpo", step, picture))
    even_K = torch.rand(num_draws, generator=generator, dtype=torch.float64)
    noise_KLC = torch.randn((num_draws, *latent_LC.shape), generator=generator)
    return Draws(t_K=shifted_time(even_K, shift), noise_KLC=noise_KLC)


def cfm_loss(velocity: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
    """|v - (eps - x_0)|^2 averaged over D: [..., L, C] -> [...] float64, with gradient to the velocity alone."""
    target = noise.detach().double() - latent.detach().double()
    return (velocity.double() - target).square().mean((-2, -1))


def elbo_log_ratio(cfm_SK: Tensor, old_cfm_SK: Tensor, *, clamp: float) -> Tensor:
    """[S] float64: the mean over draws of old - current loss, held within -clamp .. clamp, where it has no gradient.

    Raises:
        ValueError: clamp is not positive.
    """
    if not clamp > 0:
        raise ValueError(f"the clamp of the mean difference of losses is {clamp}; give a positive one")
    return (old_cfm_SK.detach().double() - cfm_SK.double()).mean(1).clamp(-clamp, clamp)


def fpo_loss(
    cfm_SK: Tensor,
    old_cfm_SK: Tensor,
    advantage_S: Tensor,
    *,
    weight_S: Tensor,
    clip: float,
    elbo_clamp: float,
    flow_weight: float,
    global_count: int,
) -> tuple[Tensor, Stats]:
    """The flow term of FPO: the clipped surrogate of the ratio of whole pictures.

    Args:
        cfm_SK: [S, K] losses of the current policy.
        old_cfm_SK: [S, K] the learner's own at the same draws, before the step's first update.
        advantage_S: [S].
        weight_S: [S] 1, or 0 for a dummy.
        clip: the ratio is clipped to 1 - clip .. 1 + clip.
        elbo_clamp: bound of the mean difference of losses, before it is exponentiated.
        flow_weight: weight of this term beside the text term.
        global_count: N, paintings on all ranks that one optimizer update sees.

    Returns:
        The loss, [] float64, and its statistics a painting.

    Raises:
        ValueError: an impossible clip or clamp.
    """
    advantage_S, weight_S = advantage_S.double(), weight_S.double()
    log_ratio_S = elbo_log_ratio(cfm_SK, old_cfm_SK, clamp=elbo_clamp)
    surrogate_S = clipped_surrogate(log_ratio_S, advantage_S, low=clip, high=clip)
    loss = -flow_weight * (weight_S * surrogate_S).sum() / global_count
    low_S, high_S = clipped(log_ratio_S, advantage_S, low=clip, high=clip)
    figures = {"cfm": cfm_SK.double().mean(1), "elbo_clamped": log_ratio_S.abs() >= elbo_clamp}
    return loss, ratio_stats(log_ratio_S, low_S, high_S, figures, weight_S, dim=(0,))
