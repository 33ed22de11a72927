"""Painting as a Markov chain whose stochastic steps have a density (UniGRPO, arXiv:2603.23500, equations 3 to 5).

x_t = (1 - t) x_0 + t eps and v = eps - x_0; t runs from 1 (noise) to 0 (picture), and the step from t to t_next has length
h = t - t_next > 0. One set of functions serves sampler and learner. Coefficients are worked out in float64 and rounded once to
the dtype of x, so a step is the same number whether its times came as floats or as tensors; densities and ratios are float64
throughout, since the paper's clip of 1e-6 is only eight spacings of float32 wide.

Left out on purpose: classifier-free guidance, which makes another v (algo/guidance.py), and GRPO-Guard's division of the loss
by h, which UniGRPO does not adopt.

Shapes: N grid points, W window steps, L latent tokens, C channels, D = L*C elements. x, v and means are [..., L, C]; t, t_next
and std are numbers or tensors that broadcast against them, such as [W, 1, 1] against [S, W, L, C].
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unigrpo.seeds import derive_seed

Time = float | Tensor

D_REF = 262_144
"""Latent elements at which the flow clip and beta_img are stated: the paper's 1024 px, 64 x 64 tokens of 64 channels."""


@dataclass(frozen=True, slots=True)
class Transition:
    """The Gaussian of one stochastic step: x_next = mean + std * standard normal."""

    mean: Tensor
    """[..., L, C] in the dtype of x."""
    std: Tensor
    """float64, shaped like t: sigma * sqrt(h), the same for every element of a step."""


def time_grid(num_points: int, shift: float) -> Tensor:
    """[N] float64 times from 1 to 0: t' = shift t / (1 + (shift - 1) t) of N evenly spaced t.

    Written as t / (t + (1 - t)/shift), which gives exactly 1 at t = 1 for every shift: `noise_scale` asks for it.
    """
    return shifted_time(torch.linspace(1, 0, num_points, dtype=torch.float64), shift)


def shifted_time(even: Tensor, shift: float) -> Tensor:
    """t' of evenly spread flow times, as `time_grid` shifts them."""
    return even / (even + (1 - even) / shift)


def noise_scale(t: Time, t_next: Time, *, noise_level: float) -> Tensor:
    """sigma = eta sqrt(t / (1 - t)), float64, shaped like t; with eta = 0 a stochastic step is the deterministic one.

    At t = 1 that diverges: there, and only there, 1 - t is replaced by 1 - t_next, in sampler and learner
    alike because both call this.

    Raises:
        ValueError: times out of order, or t_next = 0 and eta > 0: the last step lands on the picture and is deterministic.
    """
    t, t_next = _ordered(t, t_next)
    if noise_level > 0 and not bool((t_next > 0).all()):
        raise ValueError(
            "a stochastic step cannot end at t = 0: its noise would stay in the picture; end window.range before the last step"
        )
    return noise_level * torch.sqrt(t / (1 - torch.where(t == 1, t_next, t)))


def ode_step(x: Tensor, v: Tensor, t: Time, t_next: Time) -> Tensor:
    """x' = x - h v: the deterministic step, in the dtype of x.

    Raises:
        ValueError: times out of order.
    """
    t, t_next = _ordered(t, t_next)
    return x - (t - t_next).to(x) * v.to(x.dtype)


def sde_step(x: Tensor, v: Tensor, t: Time, t_next: Time, *, noise_level: float) -> Transition:
    """The stochastic step (paper equation 3): mean = x - h [v + sigma^2/(2t) (x + (1-t) v)], std = sigma sqrt(h).

    Raises:
        ValueError: as `noise_scale`.
    """
    sigma = noise_scale(t, t_next, noise_level=noise_level)
    t, t_next = _ordered(t, t_next)
    h = t - t_next
    x_coefficient = 1 - h * sigma**2 / (2 * t)
    v_coefficient = _velocity_coefficient(t, t_next, sigma)
    return Transition(mean=x_coefficient.to(x) * x - v_coefficient.to(x) * v.to(x.dtype), std=sigma * h.sqrt())


def log_ratio(mean: Tensor, old_mean: Tensor, x_next: Tensor, std: Time) -> Tensor:
    """log p(x_next) / p_old(x_next), averaged over the D elements: [...] float64 (paper equation 4; the ratio_norm ablation).

    With d = mean - old_mean and xi = (x_next - old_mean) / std it is <d, xi>/(std D) - |d|^2/(2 std^2 D): no difference of two
    large log-densities is taken.
    """
    std = torch.as_tensor(std, dtype=torch.float64, device=mean.device)
    shift, xi = _shift_and_noise(mean, old_mean, x_next, std)
    return (shift * xi / std - shift**2 / (2 * std**2)).mean((-2, -1))


def normalised_log_ratio(mean: Tensor, old_mean: Tensor, x_next: Tensor, std: Time) -> Tensor:
    """RatioNorm in closed form, <mean - old_mean, xi> / D with xi = (x_next - old_mean) / std: [...] float64.

    This is paper equation 5 with both of its terms averaged over the D elements: on average zero under the old
    policy, with standard deviation rms(mean - old_mean) / sqrt(D), whatever the step's std.
    """
    std = torch.as_tensor(std, dtype=torch.float64, device=mean.device)
    shift, xi = _shift_and_noise(mean, old_mean, x_next, std)
    return (shift * xi).mean((-2, -1))


def latent_kl_weight(t: Time, t_next: Time, *, noise_level: float) -> Tensor:
    """What turns the velocity MSE of a step into flow_grpo's latent KL, mean(d^2) / (2 sigma^2): float64, shaped like t.

    d is the difference of the two transition means, which is linear in that of the velocities. sigma is without the sqrt(h) of
    the Gaussian's own std: flow_grpo drops it on purpose, or late steps would hardly count.

    Raises:
        ValueError: as `noise_scale`.
    """
    sigma = noise_scale(t, t_next, noise_level=noise_level)
    t, t_next = _ordered(t, t_next)
    return _velocity_coefficient(t, t_next, sigma) ** 2 / (2 * sigma**2)


def window_start(seed: int, step: int, window_range: tuple[int, int], size: int) -> int:
    """First denoising step of a window, uniform over lo .. hi - size. `seed` is the run's for one window that all samples of a
    training step share, a painting's own for one each.

    Example: range (0, 5) and size 3 give 0, 1 or 2.

    Raises:
        ValueError: the window does not fit its range.
    """
    lo, hi = window_range
    if not 0 < size <= hi - lo:
        raise ValueError(f"a window of {size} steps does not fit into [{lo}, {hi}); widen window.range or change window.size")
    return lo + derive_seed(seed, "window", step) % (hi - lo - size + 1)


def rescale_to_elements(value_at_reference: float, num_elements: int) -> float:
    """A flow clip or regulariser weight stated at D_REF elements, for num_elements: times sqrt(D_REF / D).

    Example: the clip 1e-6 at 1024 px is 2e-6 at 512 px (65,536 elements).
    """
    return value_at_reference * math.sqrt(D_REF / num_elements)


def _ordered(t: Time, t_next: Time) -> tuple[Tensor, Tensor]:
    t, t_next = torch.as_tensor(t, dtype=torch.float64), torch.as_tensor(t_next, dtype=torch.float64)
    if not bool(((t_next >= 0) & (t_next < t) & (t <= 1)).all()):
        raise ValueError(
            f"a step leads from a t in (0, 1] to a smaller one in [0, t), but got {t.flatten().tolist()} to "
            f"{t_next.flatten().tolist()}; take consecutive points of time_grid"
        )
    return t, t_next


def _velocity_coefficient(t: Tensor, t_next: Tensor, sigma: Tensor) -> Tensor:
    return (t - t_next) * (1 + sigma**2 * (1 - t) / (2 * t))


def _shift_and_noise(mean: Tensor, old_mean: Tensor, x_next: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    old_mean = old_mean.detach().double()
    return mean.double() - old_mean, (x_next.detach().double() - old_mean) / std
