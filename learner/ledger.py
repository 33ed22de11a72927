"""What the micro-batches of a step saw, added up over micro-batches and ranks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from learner.terms.base import Loss
from learner.zero import ZeroEngine
from unigrpo.algo.stats import Stats


@dataclass
class Ledger:
    """Losses by part and statistics by term; every rank notes the same."""

    losses: dict[str, float] = field(default_factory=dict)
    stats: dict[str, Stats] = field(default_factory=dict)

    def note(self, term: str, loss: Loss) -> Tensor:
        """Take a micro-batch down; its loss, to differentiate."""
        for name, part in loss.parts.items():
            self.losses[name] = self.losses.get(name, 0.0) + float(part.detach())
        self._add(term, loss.stats)
        return torch.stack([*loss.parts.values()]).sum()

    def merge(self, other: "Ledger") -> None:
        """Add what another update saw."""
        for name, loss in other.losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + loss
        for term, stats in other.stats.items():
            self._add(term, stats)

    def reduced(self, engine: ZeroEngine) -> "Ledger":
        """The same over all ranks. A collective call."""
        losses = engine.total(list(self.losses.values()))
        stats = {term: _reduced(self.stats[term], engine) for term in sorted(self.stats)}
        return Ledger(dict(zip(self.losses, losses, strict=True)), stats)

    def deviations(self) -> dict[str, float]:
        """Largest |log ratio| of each term that has one: exactly 0 before the first update of a step."""
        return {
            term: float(stats.maxima["log_ratio"].max()) for term, stats in self.stats.items() if "log_ratio" in stats.maxima
        }

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
