"""What a loss tells about itself, in a form that adds up over micro-batches and ranks: sums with their counts, and maxima.

Shapes: W window steps; text statistics have none.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Stats:
    """Float64 statistics of one term, text or flow. Example: flow with W=3 -> sums["count"] [3], maxima["log_ratio"] [3]."""

    sums: Mapping[str, Tensor]
    """[] (text) or [W] (flow): totals over `count` tokens or samples: log_ratio, log_ratio_squared, clip_low, clip_high; where
    there is a reference also kl (text) or velocity_squared, reference_velocity_squared, velocity_shift_squared (flow)."""
    maxima: Mapping[str, Tensor]
    """[] or [W]: the largest absolute log_ratio."""

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

        clip_low and clip_high are the fractions where that clip binds; log_ratio_mean, log_ratio_std and log_ratio_max; where
        there is a reference also kl, or velocity_rms, reference_velocity_rms and velocity_shift_rms of their difference.
        """
        count = float(self.sums["count"].sum())
        mean = {name: float(total.sum()) / count for name, total in self.sums.items() if name != "count"}
        figures = {
            "clip_low": mean["clip_low"],
            "clip_high": mean["clip_high"],
            "log_ratio_mean": mean["log_ratio"],
            "log_ratio_std": math.sqrt(max(0.0, mean["log_ratio_squared"] - mean["log_ratio"] ** 2)),
            "log_ratio_max": float(self.maxima["log_ratio"].max()),
        }
        if "kl" in mean:
            figures["kl"] = mean["kl"]
        for name in ("velocity", "reference_velocity", "velocity_shift"):
            if f"{name}_squared" in mean:
                figures[f"{name}_rms"] = math.sqrt(mean[f"{name}_squared"])
        return figures
