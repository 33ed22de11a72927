"""What every term of an objective has in common: how the update packs it, asks it for losses and reads out what it saw."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from torch import Tensor

from configs.algorithms import UniFpo, UniGrpo
from configs.schema import TrainConfig
from learner.batch import Packer, Row, cut, sees_pictures
from learner.zero import ZeroEngine
from unigrpo.algo.stats import Stats
from unigrpo.models.bagel.model import Bagel
from unigrpo.models.bagel.recompute import held
from unigrpo.types import Sample

MicroBatch = TypeVar("MicroBatch")


@dataclass(frozen=True, slots=True)
class Loss:
    """What one micro-batch gives."""

    parts: Mapping[str, Tensor]
    """[] float64 by metric name, such as flow and regulariser: what is differentiated is their sum, and gradient norms are
    logged apart. The names are the same for every micro-batch."""
    stats: Stats
    """Likewise."""


class Term(ABC, Generic[MicroBatch]):
    """One summand of an objective on one rank. Its micro-batch holds all that stays fixed for the step, old values among it.

    Losses are sums over a global count, so that the objective is the plain sum over terms, micro-batches and ranks.
    """

    name: ClassVar[str]
    """Before its metrics."""

    @classmethod
    def compares(cls, config: TrainConfig) -> bool:
        """Whether it asks the frozen reference."""
        return False

    def __init__(self, config: TrainConfig, engine: ZeroEngine, model: Bagel, reference: Bagel | None, start: Path) -> None:
        """`reference` is there where some term of the objective compares; `start` is the checkpoint folder of the run."""
        self.config, self.engine, self.model, self.reference, self.start = config, engine, model, reference, start

    def held_context(self) -> AbstractContextManager[None]:
        """Within it, what paints reaches nothing but the generation expert, where algorithm.context_gradient is stop.

        Detaching the context alone is not enough: the two markers of a picture are the text expert's as well.
        """
        algorithm = self.config.algorithm
        if isinstance(algorithm, UniGrpo | UniFpo) and algorithm.context_gradient == "stop":
            understanding = [*self.model.text_parameters(), *self.model.vision_parameters()]
            return held(value for _, value in understanding)
        return nullcontext()

    @abstractmethod
    def prepare(self, step: int, samples: Sequence[Sample]) -> list[MicroBatch]:
        """This rank's share of a mini-batch, packed, and what the old policy and the reference say of it, without gradient.

        A collective call: as many micro-batches on every rank. It is made before the step's first update.
        """

    @abstractmethod
    def loss(self, micro_batch: MicroBatch) -> Loss:
        """Under the current policy. Runs inside the engine's forward; the graph is the caller's."""

    def mismatch(self, micro_batches: Sequence[MicroBatch]) -> dict[str, float]:
        """How far the samplers' own numbers are from the learner's, by whole metric name. A collective call."""
        return {}

    def resolved(self) -> dict[str, float]:
        """Clips and weights as they act at this run's latent size, by whole metric name."""
        return {}

    def figures(self, step: int, stats: Stats) -> dict[str, float]:
        """What the statistics of a whole step tell, without the term's name."""
        return stats.summary()

    def conclude(self, stats: Stats) -> None:
        """What the term changes of itself after the updates of a step, from the statistics over all ranks."""

    def state(self) -> dict[str, float]:
        """What it carries from step to step, for checkpoints."""
        return {}

    def load(self, state: Mapping[str, float]) -> None:
        """Take over the state of a checkpoint. Raises ValueError where something is missing."""


@dataclass(frozen=True, slots=True)
class Shares:
    """A mini-batch's rows as every rank can go through them in step."""

    cuts: list[list[Row]]
    """Micro-batches of this rank, as many as on every other."""
    packer: Packer
    global_count: int
    """Rows on all ranks, fillers not counted."""


def share(
    rows: Sequence[Row], size: int, samples: Sequence[Sample], engine: ZeroEngine, model: Bagel, filler: Sequence[Row]
) -> Shares:
    """Cut this rank's rows into micro-batches of at most `size`; ranks with fewer fill up. A collective call."""
    cuts = cut(rows, lambda row: row, size)
    num_cuts, sees = engine.largest([len(cuts), sees_pictures(samples)])
    [count] = engine.total([len(rows)])
    packer = Packer(config=model.config, device=engine.device, dtype=model.dtype, sees=bool(sees), paints=bool(sees))
    return Shares([*cuts, *([*filler] for _ in range(int(num_cuts) - len(cuts)))], packer, int(count))
