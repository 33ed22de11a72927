"""The denoising loop that painting and evaluation share: recorded inside each sample's window, deterministic elsewhere.

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
    sigma_SW: Tensor
    """[S, W] float64 noise level of each window step, before the square root of its length."""
    velocity_rms_S: Tensor
    """[S] float64 root mean square of the velocity over all steps and elements."""
    grid_N: Tensor
    """[N] float64 the time grid."""
    windows_S: Sequence[range]
    """The steps recorded of each sample, all W of them."""


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
    windows_S: Sequence[range] | None,
    noise_level: float,
    draw: Callable[[int], Tensor],
) -> Denoised:
    """Integrate from noise at t = 1 to a picture at t = 0: N points, N - 1 velocity evaluations (BAGEL's count).

    Args:
        velocity: (x_SLC in the dtype of noise_SLC, t) -> v_SLC in any dtype.
        noise_SLC: [S, L, C] float32 initial noise; the latents keep its dtype. float64 is for parity tests.
        grid_N: [N] float64 from `time_grid`.
        windows_S: consecutive steps to record of each sample, equally many; None records none.
        noise_level: eta of the recorded steps; 0 takes them deterministically, as all others are.
        draw: k -> [S, L, C] standard normal noise of step k; called for steps of a window only.

    Raises:
        ValueError: before the first evaluation, when a window does not lie within the steps, holds the last one as a stochastic
            step or differs from the others in length, or when the latents are not float32 or float64.
    """
    if noise_SLC.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"latents are kept in float32, but the noise is {noise_SLC.dtype}; draw it in float32")
    windows_S = [range(0)] * len(noise_SLC) if windows_S is None else windows_S
    sigma_SW = _noise_scales(grid_N, windows_S, noise_level)
    num_samples, num_window = sigma_SW.shape
    x_SWLC, x_next_SWLC, mean_SWLC = (noise_SLC.new_empty((num_samples, num_window, *noise_SLC.shape[1:])) for _ in range(3))
    x_SLC, squares_S = noise_SLC, torch.zeros(num_samples, dtype=torch.float64)
    for k, (t, t_next) in enumerate(pairwise(grid_N.tolist())):
        v_SLC = velocity(x_SLC, t)
        squares_S += v_SLC.float().square().mean((-2, -1)).cpu()
        next_SLC = ode_step(x_SLC, v_SLC, t, t_next)
        inside_R = torch.tensor([k in window for window in windows_S]).nonzero()[:, 0]
        if len(inside_R):
            step = sde_step(x_SLC, v_SLC, t, t_next, noise_level=noise_level)
            drawn_SLC = step.mean + step.std.to(x_SLC) * draw(k).to(x_SLC)
            next_SLC[inside_R] = drawn_SLC[inside_R]
            place_R = torch.tensor([k - windows_S[sample].start for sample in inside_R.tolist()])
            for recorded, value in ((x_SWLC, x_SLC), (x_next_SWLC, next_SLC), (mean_SWLC, step.mean)):
                recorded[inside_R, place_R] = value[inside_R]
        x_SLC = next_SLC
    return Denoised(
        latent_SLC=x_SLC,
        x_SWLC=x_SWLC,
        x_next_SWLC=x_next_SWLC,
        mean_SWLC=mean_SWLC,
        sigma_SW=sigma_SW,
        velocity_rms_S=(squares_S / (len(grid_N) - 1)).sqrt(),
        grid_N=grid_N,
        windows_S=windows_S,
    )


def _noise_scales(grid_N: Tensor, windows_S: Sequence[range], noise_level: float) -> Tensor:
    """[S, W] sigma of each sample's window steps, once the windows are found possible."""
    num_steps = len(grid_N) - 1
    sigma_W: dict[range, Tensor] = {}
    for window in dict.fromkeys(windows_S):
        if window and not (window.start >= 0 and window.stop <= num_steps and window.step == 1):
            raise ValueError(f"the window {window} does not lie within the {num_steps} steps of the grid; move or shrink it")
        start, stop = window.start, window.stop
        sigma_W[window] = noise_scale(grid_N[start:stop], grid_N[start + 1 : stop + 1], noise_level=noise_level)
    if len({len(window) for window in windows_S}) > 1:
        raise ValueError(f"windows of one batch are of one length, but got {list(sigma_W)}; paint them apart")
    return torch.stack([sigma_W[window] for window in windows_S])


def trajectories(denoised: Denoised, *, grid_hw: tuple[int, int], cfg_scale: float, policy_version: int) -> list[Trajectory]:
    """One record a sample, on the CPU, each owning its memory: pickling one does not drag the batch along."""
    return [
        Trajectory(
            x_WLC=x_WLC.clone(),
            x_next_WLC=x_next_WLC.clone(),
            mean_WLC=mean_WLC.clone(),
            start=window.start,
            grid_N=denoised.grid_N,
            sigma_W=sigma_W.clone(),
            latent_LC=latent_LC.clone(),
            grid_hw=grid_hw,
            cfg_scale=cfg_scale,
            policy_version=policy_version,
        )
        for x_WLC, x_next_WLC, mean_WLC, sigma_W, latent_LC, window in zip(
            denoised.x_SWLC.cpu(),
            denoised.x_next_SWLC.cpu(),
            denoised.mean_SWLC.cpu(),
            denoised.sigma_SW,
            denoised.latent_SLC.cpu(),
            denoised.windows_S,
            strict=True,
        )
    ]
