"""What the micro-batches of a step saw, added up over micro-batches and ranks and read out as metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from learner.zero import ZeroEngine
from unigrpo.algo.objective import FlowLoss
from unigrpo.algo.stats import Stats

STEP_FIGURES = ("clip_low", "clip_high", "log_ratio_std", "log_ratio_max", "velocity_shift_rms")
"""What is also told of each window step."""


@dataclass
class Ledger:
    """Losses and statistics of each term; a term without micro-batches has loss 0 and no statistics."""

    losses: dict[str, float] = field(default_factory=lambda: {"text": 0.0, "flow": 0.0, "regulariser": 0.0})
    stats: dict[str, Stats] = field(default_factory=dict)

    def text(self, loss: Tensor, stats: Stats) -> Tensor:
        """Note a text micro-batch; its loss, to differentiate."""
        self.losses["text"] += float(loss.detach())
        self._add("text", stats)
        return loss

    def flow(self, loss: FlowLoss) -> Tensor:
        """Note a flow micro-batch; its loss, to differentiate."""
        self.losses["flow"] += float(loss.policy.detach())
        self.losses["regulariser"] += float(loss.regulariser.detach())
        self._add("flow", loss.stats)
        return loss.total

    def merge(self, other: "Ledger") -> None:
        """Add what another update saw."""
        for name, loss in other.losses.items():
            self.losses[name] += loss
        for term, stats in other.stats.items():
            self._add(term, stats)

    def reduced(self, engine: ZeroEngine) -> "Ledger":
        """The same over all ranks. A collective call: every rank notes the same terms."""
        losses = engine.total(list(self.losses.values()))
        stats = {term: _reduced(self.stats[term], engine) for term in sorted(self.stats)}
        return Ledger(dict(zip(self.losses, losses, strict=True)), stats)

    def deviations(self) -> dict[str, float]:
        """Largest |log ratio| of each term: exactly 0 before the first update of a step."""
        return {term: float(stats.maxima["log_ratio"].max()) for term, stats in self.stats.items()}

    def metrics(self, window_start: int, num_updates: int) -> dict[str, float]:
        """Losses an update, and each term's figures; those of the flow also a window step, named by denoising step."""
        metrics = {f"loss/{name}": loss / num_updates for name, loss in self.losses.items()}
        for term, stats in self.stats.items():
            summary = stats.summary()
            metrics |= {f"{term}/{name}": value for name, value in summary.items()}
            metrics[f"{term}/clip_fraction"] = summary["clip_low"] + summary["clip_high"]
            if summary.get("reference_velocity_rms"):  # 0 is the head of a model that never learned to paint
                metrics[f"{term}/velocity_norm_ratio"] = summary["velocity_rms"] / summary["reference_velocity_rms"]
        if flow := self.stats.get("flow"):
            for w in range(len(flow.maxima["log_ratio"])):
                figures = flow.at(w).summary()
                metrics |= {f"flow/k{window_start + w}/{name}": figures[name] for name in STEP_FIGURES if name in figures}
        return metrics

    def _add(self, term: str, stats: Stats) -> None:
        self.stats[term] = self.stats[term] + stats if term in self.stats else stats


def _reduced(stats: Stats, engine: ZeroEngine) -> Stats:
    return Stats(
        sums=_like(stats.sums, engine.total(_flat(stats.sums))), maxima=_like(stats.maxima, engine.largest(_flat(stats.maxima)))
    )


def _flat(tensors: Mapping[str, Tensor]) -> list[float]:
    return [value for name in sorted(tensors) for value in tensors[name].flatten().tolist()]


def _like(tensors: Mapping[str, Tensor], values: list[float]) -> dict[str, Tensor]:
    """The values laid out as the tensors they were flattened from."""
    remaining = iter(torch.tensor(values, dtype=torch.float64).split([tensors[name].numel() for name in sorted(tensors)]))
    return {name: next(remaining).view(tensors[name].shape) for name in sorted(tensors)}
