"""Thinking in plain torch: one token at a time over a cached context. Rollouts use vLLM; this is its yardstick.

Shapes: S samples, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unigrpo.models.bagel.context import Context
from unigrpo.models.bagel.model import Bagel
from unigrpo.models.bagel.transformer import widened


@dataclass(frozen=True, slots=True)
class Continuation:
    """What one sample said. Example: 12 tokens and eos -> token_ids [13], logp [13]."""

    token_ids: tuple[int, ...]
    """As sampled, the end token included when it was reached before the limit; the start token that was fed is not."""
    logp: tuple[float, ...]
    """Log-probability of each at temperature 1."""


@torch.no_grad()
def generate(
    model: Bagel,
    context: Context,
    *,
    start_id: int,
    end_id: int | None,
    max_tokens: int,
    temperature: float = 0.0,
    generators: Sequence[torch.Generator] = (),
) -> list[Continuation]:
    """Feed `start_id` to every sample of the context, then what it samples, until `end_id` or `max_tokens` sampled tokens.

    Temperature 0 is greedy; otherwise each sample draws from its own generator (on the CPU), so that what it says does not
    depend on what it is batched with. Raises ValueError when sampling without a generator a sample.
    """
    num_samples = context.position_S.shape[0]
    if temperature > 0 and len(generators) != num_samples:
        raise ValueError(f"{num_samples} samples were given {len(generators)} generators; sampling needs one each")
    ids: list[list[int]] = [[] for _ in range(num_samples)]
    logps: list[list[float]] = [[] for _ in range(num_samples)]
    alive = list(range(num_samples))
    token_S = torch.full((num_samples,), start_id, device=context.position_S.device)
    while alive:
        hidden_S1H, context = model.prefill(token_S[:, None], torch.ones_like(token_S), context)
        logp_SV = model.logits(hidden_S1H)[:, 0].to(widened(model.dtype)).log_softmax(-1)
        token_S = _choose(logp_SV, temperature, [generators[sample] for sample in alive] if temperature > 0 else [])
        for sample, token, logp in zip(
            alive, token_S.tolist(), logp_SV.gather(1, token_S[:, None])[:, 0].tolist(), strict=True
        ):
            ids[sample].append(token)
            logps[sample].append(logp)
        going = [row for row, sample in enumerate(alive) if ids[sample][-1] != end_id and len(ids[sample]) < max_tokens]
        if len(going) < len(alive):
            index_N = torch.tensor(going, dtype=torch.int64, device=token_S.device)
            alive, token_S, context = [alive[row] for row in going], token_S[index_N], context.select(index_N)
    return [Continuation(tuple(each), tuple(logp)) for each, logp in zip(ids, logps, strict=True)]


def _choose(logp_SV: Tensor, temperature: float, generators: Sequence[torch.Generator]) -> Tensor:
    """The most likely token, or a draw by exponential races: argmax of p / Exp(1) is distributed as p."""
    if temperature == 0:
        return logp_SV.argmax(-1)
    race_SV = torch.stack([torch.empty(logp_SV.shape[1]).exponential_(generator=each) for each in generators])
    return (logp_SV / temperature - race_SV.log().to(logp_SV.device)).argmax(-1)
