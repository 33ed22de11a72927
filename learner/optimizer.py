"""What an optimizer update is told and what it tells: plain records and the learning-rate schedule, without DeepSpeed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """One data-parallel rank and where rank 0 waits for the others. Example: Rank(0, 2, "10.0.0.1", 29500)."""

    rank: int
    """0 .. world_size - 1."""
    world_size: int
    """Ranks that update together."""
    master_addr: str
    """Host of rank 0."""
    master_port: int
    """A free port there, new for each group of ranks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamWSettings:
    """What every parameter group shares."""

    betas: tuple[float, float]
    """Moment decay."""
    eps: float
    """Added to the root of the second moment."""
    weight_decay: float
    """Decoupled decay."""
    max_grad_norm: float
    """Global gradient norm that updates are clipped to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateStats:
    """One optimizer update, the same numbers on every rank."""

    loss: float
    """Sum over micro-batches and ranks."""
    grad_norm: float
    """Of all parameters, before clipping."""
    grad_norms: Mapping[str, float]
    """Of each parameter group, before clipping."""
    learning_rates: Mapping[str, float]
    """Of each parameter group, schedule included."""


def schedule(update: int, *, num_updates: int, warmup_updates: int, decay_updates: int) -> float:
    """Factor on the learning rates of one update (counted from 0): a linear rise, a plateau, a linear fall over the last ones.

    Example: 10 updates, 2 of warm-up, 4 of decay -> .5, 1, 1, 1, 1, 1, 1, .75, .5, .25.
    """
    rise = (update + 1) / warmup_updates if warmup_updates else 1.0
    fall = (num_updates - update) / decay_updates if decay_updates else 1.0
    return max(0.0, min(1.0, rise, fall))


def figures(updates: Sequence[UpdateStats]) -> dict[str, float]:
    """Several updates as metrics: loss and gradient norms as means, learning rates as the last update had them."""
    last = updates[-1]
    return {
        "loss": fmean(update.loss for update in updates),
        "grad_norm": fmean(update.grad_norm for update in updates),
        **{f"grad_norm/{name}": fmean(update.grad_norms[name] for update in updates) for name in last.grad_norms},
        **{f"lr/{name}": rate for name, rate in last.learning_rates.items()},
    }
