"""GRPO on thoughts (paper equation 2).

The old policy is the learner itself before the step's first update, asked over the very micro-batches that the updates will
see: another engine's rounding, or another packing, would be as large as a clip. What the sampler recorded is
compared with it and otherwise not used.

Shapes: S samples, N predicted tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from configs import algorithms
from configs.schema import TrainConfig
from learner.batch import TextBatch, text_batch, text_row
from learner.policy import in_pieces, token_logp
from learner.terms.base import Loss, Term, share
from unigrpo.algo.text_grpo import text_loss
from unigrpo.types import Sample


@dataclass(frozen=True, slots=True)
class TextWork:
    """A micro-batch with its anchors."""

    batch: TextBatch
    old_logp_SN: Tensor
    reference_logp_SN: Tensor | None
    global_count: int


class TextTerm(Term[TextWork]):
    """Every thought of a sample at once, each token with its thought's advantage."""

    name = "text"

    @classmethod
    def compares(cls, config: TrainConfig) -> bool:
        return _settings(config).text_kl > 0

    def prepare(self, step: int, samples: Sequence[Sample]) -> list[TextWork]:
        rows = [row for sample in samples if (row := text_row(sample, self.model.config)).thoughts]
        shares = share(rows, self.config.learner.text_micro_batch, samples, self.engine, self.model, filler=())
        batches = in_pieces([text_batch(some, shares.packer) for some in shares.cuts], self.model, self.engine)
        return [self._anchored(batch, shares.global_count) for batch in batches]

    def loss(self, micro_batch: TextWork) -> Loss:
        settings, batch = _settings(self.config), micro_batch.batch
        low, high = settings.text_clip
        loss, stats = text_loss(
            token_logp(self.model, batch),
            micro_batch.old_logp_SN,
            batch.mask_SN,
            batch.advantage_SN,
            weight_S=batch.weight_S,
            clip_low=low,
            clip_high=high,
            global_count=micro_batch.global_count,
            kl_weight=settings.text_kl,
            reference_logp_ST=micro_batch.reference_logp_SN,
        )
        return Loss({"text": loss}, stats)

    def mismatch(self, micro_batches: Sequence[TextWork]) -> dict[str, float]:
        """The largest |dlogp| of a token, and the mean."""
        gaps = [
            (each.old_logp_SN.double() - each.batch.behavior_logp_SN)[each.batch.mask_SN].abs().cpu() for each in micro_batches
        ]
        gap_N = torch.cat(gaps)
        count, total = self.engine.total([gap_N.numel(), float(gap_N.sum())])
        [largest] = self.engine.largest([float(gap_N.max()) if gap_N.numel() else 0.0])
        return {"mismatch/text": largest, "mismatch/text_mean": total / count}

    def _anchored(self, batch: TextBatch, global_count: int) -> TextWork:
        old_logp_SN = self.engine.compute(lambda: token_logp(self.model, batch))
        if not self.compares(self.config):
            return TextWork(batch, old_logp_SN, None, global_count)
        reference = self.reference
        assert reference is not None
        return TextWork(batch, old_logp_SN, self.engine.compute(lambda: token_logp(reference, batch)), global_count)


def _settings(config: TrainConfig) -> algorithms.TextTerm:
    assert isinstance(config.algorithm, algorithms.TextTerm)
    return config.algorithm
