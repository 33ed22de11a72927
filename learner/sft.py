"""Supervised fine-tuning on (prompt, thought, picture): cross-entropy of the thought and flow matching of the picture.

Both losses of an example share one packed row, and all its noise draws one context. Where learner.trains leaves an
expert out, its loss has nothing to sum: no thought is predicted, or no noised picture packed.

Shapes: N noised latent tokens, C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter

import torch
from torch import Tensor

from configs.schema import SftConfig
from learner.batch import Packer, Row, SftExample, TextBatch, cut, sees_pictures, sft_row, text_batch
from learner.optimizer import figures
from learner.policy import in_pieces, predicted_logp
from learner.update import Take
from learner.zero import ZeroEngine
from unigrpo.models.bagel.model import Bagel
from unigrpo.models.bagel.packing import Noised


@dataclass(frozen=True, slots=True)
class SftBatch:
    """One micro-batch of examples; a dummy has none."""

    text: TextBatch
    """Predicted thoughts; its packed row holds the noised pictures as well."""
    target_NC: Tensor
    """[N, C] noise - picture, of every noised latent token of the row."""


class SftUpdate:
    """The objective of a fine-tuning run; calling it is one update. Every call is collective.

    The cross-entropy is a mean over thought tokens on all ranks, the flow loss over noised latent tokens and their channels; of
    nothing either is 0. learner.flow_micro_batch counts examples, each with its draws.
    """

    def __init__(self, config: SftConfig, engine: ZeroEngine, model: Bagel) -> None:
        self._config, self._engine, self._model = config, engine, model

    def state(self) -> dict[str, float]:
        """Nothing is carried from update to update beside the optimizer's own."""
        return {}

    def load(self, state: Mapping[str, float]) -> None:
        """Nothing to take over."""

    def __call__(self, step: int, mini_batches: Sequence[Sequence[SftExample]], take: Take) -> dict[str, float]:
        """Imitate the examples of a step: one mini-batch. Returns metrics over all ranks."""
        [examples] = mini_batches
        batches = self._pack(examples)
        own = [sum(len(batch.text.target_M) for batch in batches), sum(batch.target_NC.numel() for batch in batches)]
        num_tokens, num_elements = self._engine.total(own)
        seen = {"text": 0.0, "flow": 0.0}
        stats = take(partial(self._loss, batch, max(1.0, num_tokens), max(1.0, num_elements), seen) for batch in batches)
        text, flow = self._engine.total(list(seen.values()))
        return {"loss/text": text, "loss/flow": flow, **figures([stats])}

    def _pack(self, examples: Sequence[SftExample]) -> list[SftBatch]:
        config, engine = self._model.config, self._engine
        lessons = [(row, each) for each in examples if (row := self._row(each)).thoughts or self._paints]
        cuts = cut(lessons, itemgetter(0), self._config.learner.flow_micro_batch)
        num_batches, sees = engine.largest([max(1, len(cuts)), sees_pictures(examples)])
        cuts += [[] for _ in range(int(num_batches) - len(cuts))]
        packer = Packer(
            config=config, device=engine.device, dtype=self._model.dtype, sees=bool(sees), paints=self._paints or bool(sees)
        )
        texts = in_pieces([text_batch([row for row, _ in rows], packer) for rows in cuts], self._model, engine)
        painted = cuts if self._paints else [[] for _ in cuts]
        targets = [[example.noise_KLC - example.latent_LC for _, example in rows] for rows in painted]
        nothing = torch.zeros(0, config.latent_channels)
        return [
            SftBatch(text, torch.cat([each.flatten(0, 1) for each in target] or [nothing]).to(engine.device))
            for text, target in zip(texts, targets, strict=True)
        ]

    def _row(self, example: SftExample) -> Row:
        """An example as far as it is learned from."""
        row = sft_row(example, self._model.config)
        if "text" not in self._config.trains:
            row = replace(row, thoughts={})
        if not self._paints:
            row = replace(row, splits=tuple(split for split in row.splits if not isinstance(split, Noised)))
        return row

    @property
    def _paints(self) -> bool:
        return "generation" in self._config.trains

    def _loss(self, batch: SftBatch, num_tokens: float, num_elements: float, seen: dict[str, float]) -> Tensor:
        hidden = self._model(batch.text.packed)
        text = -predicted_logp(self._model, hidden.text_UH, batch.text).double().sum() / num_tokens
        flow = (hidden.velocity_NC - batch.target_NC).double().square().sum() * self._config.flow_weight / num_elements
        seen["text"] += float(text.detach())
        seen["flow"] += float(flow.detach())
        return text + flow
