"""What a loss tells about itself, in a form that adds up over micro-batches and ranks: sums with their counts, and maxima.

Shapes: W window steps; statistics of text have none.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_SQUARED = "_squared"


@dataclass(frozen=True, slots=True)
class Stats:
    """Float64 statistics of one term. Example: flow with W=3 -> sums["count"] [3], maxima["log_ratio"] [3]."""

    sums: Mapping[str, Tensor]
    """[] or [W]: totals over `count` tokens or paintings. A name that ends in _squared totals squares."""
    maxima: Mapping[str, Tensor]
    """[] or [W]: largest absolute values."""

    def __add__(self, other: "Stats") -> "Stats":
        """The statistics of both batches together; both must hold the same names."""
        if self.sums.keys() != other.sums.keys():
            raise ValueError(f"cannot add statistics of {sorted(self.sums)} and of {sorted(other.sums)}; add those of one term")
        return Stats(
            sums={name: total + other.sums[name] for name, total in self.sums.items()},
            maxima={name: torch.maximum(peak, other.maxima[name]) for name, peak in self.maxima.items()},
        )

    def at(self, w: int) -> "Stats":
        """Those of one window step."""
        return Stats(
            {name: total[w] for name, total in self.sums.items()}, {name: peak[w] for name, peak in self.maxima.items()}
        )

    def summary(self) -> dict[str, float]:
        """Readable numbers over everything counted.

        The mean of x is called x, or x_mean where squares are there to tell x_std beside it; squares alone give x_rms; the
        largest absolute x is x_max. Example: sums clip_low, log_ratio, log_ratio_squared and velocity_squared give clip_low,
        log_ratio_mean, log_ratio_std and velocity_rms.
        """
        count = float(self.sums["count"].sum())
        mean = {name: float(total.sum()) / count for name, total in self.sums.items() if name != "count"}
        figures = {}
        for name, value in mean.items():
            bare = name.removesuffix(_SQUARED)
            if name == bare:
                figures[f"{name}_mean" if name + _SQUARED in mean else name] = value
            elif bare in mean:
                figures[f"{bare}_std"] = math.sqrt(max(0.0, value - mean[bare] ** 2))
            else:
                figures[f"{bare}_rms"] = math.sqrt(value)
        return figures | {f"{name}_max": float(peak.max()) for name, peak in self.maxima.items()}


def ratio_stats(
    log_ratio: Tensor, low: Tensor, high: Tensor, figures: Mapping[str, Tensor], weight: Tensor, *, dim: tuple[int, ...]
) -> Stats:
    """Those of a clipped ratio: weighted totals over `dim`.

    low and high (bool) say where either clip binds, clip_fraction counts both; figures are what else is to be told, by name;
    weight is 0 where nothing real stands. All are shaped like log_ratio, or broadcast against it.
    """
    log_ratio = log_ratio.detach()
    clips = {"clip_low": low, "clip_high": high, "clip_fraction": low | high}
    figures = {"log_ratio": log_ratio, "log_ratio_squared": log_ratio**2, **clips, **figures}
    sums = {name: (weight * figure.detach()).sum(dim) for name, figure in figures.items()}
    return Stats(sums={"count": weight.sum(dim), **sums}, maxima={"log_ratio": (weight * log_ratio.abs()).amax(dim)})
