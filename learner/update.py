"""One step of an objective: the sum of its terms over the step's samples, one or more passes, one update a mini-batch.

before the first update   every term packs the samples and asks old policy and reference        (learner/terms/)
for every pass, for every mini-batch
    for every term, for every micro-batch     its loss                                          (unigrpo/algo/)
    one AdamW update along the gradient of their sum over terms, micro-batches and ranks        (paper equation 7)
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from configs.schema import TrainConfig
from learner.checks import Expected, require_on_policy
from learner.gradients import group_norms
from learner.ledger import Ledger
from learner.objectives import OBJECTIVES
from learner.optimizer import UpdateStats, figures
from learner.terms.base import Term
from learner.zero import ZeroEngine
from unigrpo.models.bagel.model import Bagel
from unigrpo.types import Sample

Take = Callable[[Iterable[Callable[[], Tensor]]], UpdateStats]
"""Makes one optimizer update of micro-batch losses, at the learning rates of the schedule."""
Work = Mapping[Term[Any], Sequence[Any]]
"""One mini-batch, ready for any number of passes: the micro-batches of every term, as many on every rank."""


class Update:
    """The objective of a training run; calling it is one step. Every call is collective."""

    def __init__(self, config: TrainConfig, engine: ZeroEngine, model: Bagel, reference: Bagel | None, start: Path) -> None:
        """`reference` is given exactly when needs_reference(config); `start` is the checkpoint folder of the run."""
        self._config, self._engine, self._model = config, engine, model
        self._terms = [term(config, engine, model, reference, start) for term in OBJECTIVES[config.algorithm.kind]]

    def __call__(self, step: int, mini_batches: Sequence[Sequence[Sample]], take: Take) -> dict[str, float]:
        """Learn from the samples of a step, this rank's share of each mini-batch.

        Returns metrics over all ranks and updates. Raises ValueError for samples that were not sampled as the learner would
        replay them, before anything is learned, FloatingPointError where the gradient is not finite, and ArithmeticError
        where policies that are the same differ by more than a clip; what was learned of the step is then not to be kept.
        """
        Expected.of(self._config, self._model.config, step).check([sample for samples in mini_batches for sample in samples])
        works: list[Work] = [{term: term.prepare(step, samples) for term in self._terms} for samples in mini_batches]
        metrics = self._advantages(mini_batches)
        for term in self._terms:
            metrics |= term.resolved() | term.mismatch([each for work in works for each in work[term]])
        if step % self._config.logging.gradients_every == 0:
            metrics |= self._term_norms(works[0])
        updates: list[UpdateStats] = []
        whole = Ledger()
        for _ in range(self._config.algorithm.updates // self._config.algorithm.mini_batches):
            for work in works:
                ledger = Ledger()
                updates.append(take(_losses(work, ledger)))
                if len(updates) == 1:
                    first = ledger.reduced(self._engine)
                    require_on_policy(first.stats)
                    metrics |= {f"on_policy/{name}": value for name, value in first.deviations().items()}
                whole.merge(ledger)
        total = whole.reduced(self._engine)
        metrics |= {f"loss/{name}": loss / len(updates) for name, loss in total.losses.items()}
        for term in self._terms:
            told = term.figures(step, total.stats[term.name])
            metrics |= {f"{term.name}/{name}": value for name, value in told.items()}
            term.conclude(total.stats[term.name])
        return metrics | figures(updates)

    def state(self) -> dict[str, float]:
        """What the terms carry from step to step, for checkpoints."""
        return {name: value for term in self._terms for name, value in term.state().items()}

    def load(self, state: Mapping[str, float]) -> None:
        """Take over the state of a checkpoint. Raises ValueError where something is missing."""
        for term in self._terms:
            term.load(state)

    def _term_norms(self, work: Work) -> dict[str, float]:
        """Gradient norm of each loss part in each expert, of this rank's first micro-batch, outside the engine.

        ZeRO-3 holds no whole parameter to differentiate by, so there is nothing to report there.
        """
        if self._config.learner.zero_stage == 3:
            return {}
        experts = {"text": self._model.text_parameters(), "generation": self._model.generation_parameters()}
        groups = {name: experts[name] for name in sorted(experts.keys() & set(self._config.trains))}
        parts: dict[str, Tensor] = {}
        for term, micro_batches in work.items():
            parts |= term.loss(micro_batches[0]).parts
        return {
            f"term_norm/{part}/{name}": norm for part, loss in parts.items() for name, norm in group_norms(loss, groups).items()
        }

    def _advantages(self, mini_batches: Sequence[Sequence[Sample]]) -> dict[str, float]:
        values = [value for samples in mini_batches for sample in samples for value in sample.advantages]
        sums = [len(values), math.fsum(value**2 for value in values), values.count(0.0)]
        count, squares, zeros = self._engine.total(sums)
        return {"advantage/rms": (squares / count) ** 0.5, "advantage/zero": zeros / count}


def _losses(work: Work, ledger: Ledger) -> Iterator[Callable[[], Tensor]]:
    """The micro-batches of one update, term by term; each notes in the ledger what it saw."""
    for term, micro_batches in work.items():
        for micro_batch in micro_batches:
            yield partial(_noted, ledger, term, micro_batch)


def _noted(ledger: Ledger, term: Term[Any], micro_batch: Any) -> Tensor:
    return ledger.note(term.name, term.loss(micro_batch))
