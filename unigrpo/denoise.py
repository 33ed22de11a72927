"""The denoising loop that painting and evaluation share: stochastic inside the window, deterministic elsewhere.

It knows nothing of models: `velocity` is whatever predicts v. No gradient passes through it, and there is no guidance; a caller
that wants guidance puts it into `velocity`.

Shapes: S samples, W window steps, N grid points, L latent tokens, C channels of a latent token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from unigrpo.algo.flow import noise_scale, ode_step, sde_step
from unigrpo.seeds import derive_seed
from unigrpo.types import Trajectory


@dataclass(frozen=True, slots=True)
class Denoised:
    """A batch of finished denoising runs. Example: S=24, W=3 of 64x64 tokens -> x_SWLC [24, 3, 4096, 64]."""

    latent_SLC: Tensor
    """[S, L, C] the final latents, before decoding."""
    x_SWLC: Tensor
    """[S, W, L, C] what each window step started from."""
    x_next_SWLC: Tensor
    """[S, W, L, C] what each window step drew, exactly as it was fed on."""
    mean_SWLC: Tensor
    """[S, W, L, C] the mean of each window step's transition."""
    sigma_W: Tensor
    """[W] float64 noise level of each window step, before the square root of its length."""
    grid_N: Tensor
    """[N] float64 the time grid."""
    window: range
    """The stochastic steps; W = len(window), 0 in evaluation."""


def seeded_noise(seeds_S: Sequence[int], draw: int | str, shape_LC: tuple[int, int]) -> Tensor:
    """[S, L, C] float32 standard normal on the CPU, each sample from a generator of its own.

    `draw` tells the draws of one sample apart: "start" for the initial noise, k for denoising step k. A sample's noise depends
    on its seed and draw only, never on what it is batched with or on the device that paints it.
    """
    generators = [torch.Generator().manual_seed(derive_seed(seed, draw)) for seed in seeds_S]
    return torch.stack([torch.randn(shape_LC, generator=generator) for generator in generators])


@torch.no_grad()
def denoise(
    velocity: Callable[[Tensor, float], Tensor],
    noise_SLC: Tensor,
    grid_N: Tensor,
    window: range,
    noise_level: float,
    draw: Callable[[int], Tensor],
) -> Denoised:
    """Integrate from noise at t = 1 to a picture at t = 0: N points, N - 1 velocity evaluations (BAGEL's count).

    Args:
        velocity: (x_SLC in the dtype of noise_SLC, t) -> v_SLC in any dtype.
        noise_SLC: [S, L, C] float32 initial noise; the latents keep its dtype. float64 is for parity tests.
        grid_N: [N] float64 from `time_grid`.
        window: consecutive steps to take stochastically; range(0) for none.
        noise_level: eta of the stochastic steps; not used without any.
        draw: k -> [S, L, C] standard normal noise of step k; called for steps of the window only.

    Raises:
        ValueError: before the first evaluation, when the window does not lie within the steps or holds the last one, or when
            the latents are not float32 or float64.
    """
    times = grid_N.tolist()
    if noise_SLC.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"latents are kept in float32, but the noise is {noise_SLC.dtype}; draw it in float32")
    if window and not (window.start >= 0 and window.stop <= len(times) - 1 and window.step == 1):
        raise ValueError(f"the window {window} does not lie within the {len(times) - 1} steps of the grid; move or shrink it")
    sigma_W = noise_scale(
        grid_N[window.start : window.stop], grid_N[window.start + 1 : window.stop + 1], noise_level=noise_level
    )
    x_SLC = noise_SLC
    started, drawn, means = [], [], []
    for k, (t, t_next) in enumerate(pairwise(times)):
        v_SLC = velocity(x_SLC, t)
        if k not in window:
            x_SLC = ode_step(x_SLC, v_SLC, t, t_next)
            continue
        step = sde_step(x_SLC, v_SLC, t, t_next, noise_level=noise_level)
        started.append(x_SLC)
        x_SLC = step.mean + step.std.to(x_SLC) * draw(k).to(x_SLC)
        drawn.append(x_SLC)
        means.append(step.mean)
    return Denoised(
        latent_SLC=x_SLC,
        x_SWLC=_stack(started, noise_SLC),
        x_next_SWLC=_stack(drawn, noise_SLC),
        mean_SWLC=_stack(means, noise_SLC),
        sigma_W=sigma_W,
        grid_N=grid_N,
        window=window,
    )


def trajectories(denoised: Denoised, *, grid_hw: tuple[int, int], cfg_scale: float, policy_version: int) -> list[Trajectory]:
    """One record a sample, on the CPU, each owning its memory: pickling one does not drag the batch along."""
    return [
        Trajectory(
            x_WLC=x_WLC.clone(),
            x_next_WLC=x_next_WLC.clone(),
            mean_WLC=mean_WLC.clone(),
            start=denoised.window.start,
            grid_N=denoised.grid_N,
            sigma_W=denoised.sigma_W,
            grid_hw=grid_hw,
            cfg_scale=cfg_scale,
            policy_version=policy_version,
        )
        for x_WLC, x_next_WLC, mean_WLC in zip(
            denoised.x_SWLC.cpu(), denoised.x_next_SWLC.cpu(), denoised.mean_SWLC.cpu(), strict=True
        )
    ]


def _stack(steps: list[Tensor], like_SLC: Tensor) -> Tensor:
    """[S, W, L, C] of W tensors [S, L, C]; W may be 0."""
    return torch.stack(steps, 1) if steps else like_SLC.new_empty((like_SLC.shape[0], 0, *like_SLC.shape[1:]))
