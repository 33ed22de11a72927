"""Supervised fine-tuning on (prompt, thought, picture): cross-entropy of the thought and flow matching of the picture.

Both losses of an example share one prefill, and all its noise draws one context (BAGEL.md 8).

Shapes: S examples, T tokens, N predicted tokens, K noise draws, L latent tokens, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from configs.schema import SftConfig
from learner.batch import MiniBatch, SftExample, TextBatch, chain_of_example, cut, text_batch
from learner.optimizer import figures
from learner.policy import in_pieces, predicted_logp
from learner.update import Take
from learner.zero import ZeroEngine
from unigrpo.models.bagel.model import Bagel


@dataclass(frozen=True, slots=True)
class SftBatch:
    """One micro-batch of examples; a dummy has none."""

    text: TextBatch
    latent_SLC: Tensor
    t_SK: Tensor
    noise_SKLC: Tensor
    grid_hw: tuple[int, int]


class SftUpdate:
    """The objective of a fine-tuning run; calling it is one update. Every call is collective.

    The cross-entropy is a mean over thought tokens on all ranks, the flow loss over pictures, draws and latent elements.
    learner.flow_micro_batch counts examples, each with its draws.
    """

    def __init__(self, config: SftConfig, engine: ZeroEngine, model: Bagel, reference: None = None) -> None:
        self._config, self._engine, self._model = config, engine, model

    def __call__(self, step: int, mini_batches: Sequence[MiniBatch[SftExample]], take: Take) -> dict[str, float]:
        """Imitate the examples of a step: one mini-batch. Returns metrics over all ranks."""
        [mini_batch] = mini_batches
        batches = self._pack(mini_batch.samples)
        [num_tokens] = self._engine.total([float(sum(int(batch.text.mask_SN.sum()) for batch in batches))])
        seen = {"text": 0.0, "flow": 0.0}
        stats = take(partial(self._loss, batch, max(1.0, num_tokens), mini_batch.global_count, seen) for batch in batches)
        text, flow = self._engine.total(list(seen.values()))
        return {"loss/text": text, "loss/flow": flow, **figures([stats])}

    def _pack(self, examples: Sequence[SftExample]) -> list[SftBatch]:
        rows = [(chain_of_example(example, self._model.config), example) for example in examples]
        cuts = cut(rows, lambda row: len(row[0].ids), self._config.learner.flow_micro_batch)
        [num_batches] = self._engine.largest([float(len(cuts))])
        cuts += [[] for _ in range(int(num_batches) - len(cuts))]
        texts = [text_batch([chain for chain, _ in rows]).to(self._engine.device) for rows in cuts]
        texts = in_pieces(texts, self._model, self._engine)
        return [self._batch(text, [example for _, example in rows]) for text, rows in zip(texts, cuts, strict=True)]

    def _batch(self, text: TextBatch, examples: Sequence[SftExample]) -> SftBatch:
        device, channels = self._engine.device, self._model.config.latent_channels
        if not examples:
            nothing = torch.zeros(1, 1, channels, device=device)
            return SftBatch(text, nothing, nothing.new_zeros(1, 1), nothing[None], (1, 1))
        return SftBatch(
            text,
            torch.stack([example.latent_LC for example in examples]).to(device),
            torch.stack([example.t_K for example in examples]).to(device),
            torch.stack([example.noise_KLC for example in examples]).to(device),
            examples[0].grid_hw,
        )

    def _loss(self, batch: SftBatch, num_tokens: float, global_count: int, seen: dict[str, float]) -> Tensor:
        hidden_STH, context = self._model.prefill(batch.text.ids_ST, batch.text.length_S)
        logp_SN = predicted_logp(self._model, hidden_STH, batch.text).double()
        text = -torch.where(batch.text.mask_SN, logp_SN, 0.0).sum() / num_tokens
        num_examples, num_draws = batch.t_SK.shape
        t_SK11, clean_S1LC = batch.t_SK[..., None, None].to(batch.latent_SLC.dtype), batch.latent_SLC[:, None]
        x_SKLC = (1 - t_SK11) * clean_S1LC + t_SK11 * batch.noise_SKLC
        velocity_SLC = self._model.velocity(
            x_SKLC.flatten(0, 1), batch.t_SK.flatten(), context.repeat(num_draws), batch.grid_hw
        )
        target_SKLC = batch.noise_SKLC - clean_S1LC
        error_S = (velocity_SLC.unflatten(0, (num_examples, num_draws)) - target_SKLC).double().square().mean((1, 2, 3))
        flow = self._config.flow_weight * (batch.text.weight_S * error_S).sum() / global_count
        seen["text"] += float(text.detach())
        seen["flow"] += float(flow.detach())
        return text + flow
