"""What stays fixed while a step's samples are learned from: micro-batches, and what old policy and reference say of them.

The old policy is the learner itself before the step's first update, asked without gradient over the very micro-batches that
the updates will see: another engine's rounding, or another packing, would be as large as the flow clip (PAPER.md 1.6, 7). What
the sampler recorded is compared with it and otherwise not used.

Shapes: S samples, N predicted tokens, W window steps, L latent tokens, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.roles import LearnerConfig
from learner.batch import (
    FlowBatch,
    MiniBatch,
    Packer,
    Row,
    TextBatch,
    cut,
    flow_batch,
    flow_rows,
    sees_pictures,
    text_batch,
    text_row,
)
from learner.checks import Expected
from learner.policy import Window, in_pieces, token_logp, velocity
from learner.zero import ZeroEngine
from unigrpo.algo.flow import normalised_log_ratio
from unigrpo.models.bagel.model import Bagel
from unigrpo.types import Sample


@dataclass(frozen=True, slots=True)
class TextWork:
    """A text micro-batch with its anchors."""

    batch: TextBatch
    old_logp_SN: Tensor
    reference_logp_SN: Tensor | None


@dataclass(frozen=True, slots=True)
class FlowWork:
    """A flow micro-batch with its anchors."""

    batch: FlowBatch
    old_mean_SWLC: Tensor
    reference_velocity_SWLC: Tensor | None


@dataclass(frozen=True, slots=True)
class Work:
    """One mini-batch, ready for any number of passes. Every rank holds as many micro-batches of each kind."""

    texts: list[TextWork]
    flows: list[FlowWork]
    global_count: int


class Anchor:
    """Packs mini-batches and asks the old policy and the reference about them. A collective call."""

    def __init__(
        self,
        engine: ZeroEngine,
        model: Bagel,
        config: LearnerConfig,
        *,
        text_reference: Bagel | None,
        flow_reference: Bagel | None,
    ) -> None:
        """The references answer for tokens and for velocities, where the objective compares these."""
        self._engine, self._model, self._config = engine, model, config
        self._text_reference, self._flow_reference = text_reference, flow_reference

    def prepare(self, mini_batch: MiniBatch[Sample], expected: Expected) -> Work:
        """Raises ValueError for samples that were not sampled as the learner would replay them."""
        expected.check(mini_batch.samples)
        texts, flows = self._pack(mini_batch.samples, expected)
        return Work(
            texts=[self._text(batch) for batch in texts],
            flows=[self._flow(batch, expected.window) for batch in flows],
            global_count=mini_batch.global_count,
        )

    def _pack(self, samples: Sequence[Sample], expected: Expected) -> tuple[list[TextBatch], list[FlowBatch]]:
        config, settings, engine = self._model.config, self._config, self._engine
        times_W = expected.window.t_W.tolist()
        said = [row for each in samples if (row := text_row(each, config)).thoughts] if "text" in settings.trains else []
        painted = (
            [row for each in samples for row in flow_rows(each, config, times_W)] if "generation" in settings.trains else []
        )
        texts = cut(said, _itself, settings.text_micro_batch)
        flows = cut(painted, _itself, settings.flow_micro_batch)
        num_texts, num_flows, sees = engine.largest([len(texts), len(flows), sees_pictures(samples)])
        texts += [[] for _ in range(int(num_texts) - len(texts))]
        flows += [[] for _ in range(int(num_flows) - len(flows))]
        packer = Packer(config=config, device=engine.device, dtype=self._model.dtype, sees=bool(sees), paints=bool(sees))
        return (
            in_pieces([text_batch(rows, packer) for rows in texts], self._model, engine),
            [flow_batch(rows, packer, expected.shape_WLC, expected.grid_hw) for rows in flows],
        )

    def _text(self, batch: TextBatch) -> TextWork:
        old_logp_SN = self._engine.compute(lambda: token_logp(self._model, batch))
        reference = self._text_reference
        if reference is None:
            return TextWork(batch, old_logp_SN, None)
        return TextWork(batch, old_logp_SN, self._engine.compute(lambda: token_logp(reference, batch)))

    def _flow(self, batch: FlowBatch, window: Window) -> FlowWork:
        old_velocity_SWLC = self._engine.compute(lambda: velocity(self._model, batch))
        old_mean_SWLC = window.mean(batch.x_SWLC, old_velocity_SWLC)
        reference = self._flow_reference
        if reference is None:
            return FlowWork(batch, old_mean_SWLC, None)
        return FlowWork(batch, old_mean_SWLC, self._engine.compute(lambda: velocity(reference, batch)))


def mismatch(works: Sequence[Work], std_W: Tensor, engine: ZeroEngine) -> dict[str, float]:
    """How far the samplers' own numbers are from the learner's, over all ranks. A collective call.

    `mismatch/text` is the largest |dlogp| of a token and `_mean` the mean; `mismatch/flow` is the root mean square of the
    normalised log-ratio between the two means of a transition, to be held against the flow clip, and `_max` the largest.
    """
    text, flow = [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0, dtype=torch.float64)]
    for work in works:
        for each in work.texts:
            text.append((each.old_logp_SN.double() - each.batch.behavior_logp_SN)[each.batch.mask_SN].abs().cpu())
        for one in work.flows:
            batch = one.batch
            ratio_SW = normalised_log_ratio(
                one.old_mean_SWLC, batch.behavior_mean_SWLC, batch.x_next_SWLC, std_W[:, None, None]
            )
            flow.append(ratio_SW[batch.weight_S > 0].abs().flatten().cpu())
    text_N, flow_N = torch.cat(text), torch.cat(flow)
    sums = engine.total([text_N.numel(), float(text_N.sum()), flow_N.numel(), float(flow_N.square().sum())])
    largest = engine.largest([float(values.max()) if values.numel() else 0.0 for values in (text_N, flow_N)])
    figures: dict[str, float] = {}
    if sums[0]:
        figures |= {"mismatch/text": largest[0], "mismatch/text_mean": sums[1] / sums[0]}
    if sums[2]:
        figures |= {"mismatch/flow": (sums[3] / sums[2]) ** 0.5, "mismatch/flow_max": largest[1]}
    return figures


def _itself(row: Row) -> Row:
    return row
