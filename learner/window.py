"""The denoising steps of one turn of the loop that are recorded for the learner, worked out by the learner itself.

Shapes: N grid points, W window steps. Times and noise levels are float64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from configs.schema import TrainConfig
from unigrpo.algo.flow import noise_scale, time_grid, window_start


@dataclass(frozen=True, slots=True)
class Window:
    """Where recorded steps may be. Example: placement sample, range (0, 5), size 3 -> starts range(0, 3)."""

    grid_N: Tensor
    """[N] the whole time grid."""
    starts: range
    """Where a painting's window may start; one place where all paintings of a step share theirs."""
    size: int
    """W; 0 where no step is recorded."""
    noise_level: float
    """eta."""

    @classmethod
    def of(cls, config: TrainConfig, step: int) -> "Window":
        """The window of a step, a function of (seed, step) alone."""
        grid_N = time_grid(config.sampler.num_points, config.sampler.shift)
        window = config.algorithm.window
        if window is None:
            return cls(grid_N, range(0), 0, 0.0)
        first, last = window.range[0], window.range[1] - window.size
        if window.placement == "step":
            first = last = window_start(config.seed, step, window.range, window.size)
        return cls(grid_N, range(first, last + 1), window.size, window.noise_level)

    def times(self, start: int) -> Tensor:
        """[W + 1] where each step of the window at `start` starts, and where the last one ends."""
        return self.grid_N[start : start + self.size + 1]

    def sigma(self, start: int) -> Tensor:
        """[W] noise levels of the window at `start`."""
        if self.size == 0:
            return torch.zeros(0, dtype=torch.float64)
        times = self.times(start)
        return noise_scale(times[:-1], times[1:], noise_level=self.noise_level)

    @property
    def names(self) -> list[str]:
        """What figures of each step are called: by denoising step where all paintings share theirs, else by place."""
        if len(self.starts) == 1:
            return [f"k{self.starts[0] + w}" for w in range(self.size)]
        return [f"w{w}" for w in range(self.size)]
