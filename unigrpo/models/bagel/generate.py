"""Thinking in plain torch: one token at a time over a cached context.

Rollouts think so before pictures, which vLLM reads otherwise than BAGEL; of texts vLLM thinks, and this is its yardstick.

Shapes: S samples of the context, each continued by its siblings: N continuations; V vocabulary, H hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unigrpo.models.bagel.context import Context, Growing
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
    siblings: int = 1,
    temperature: float = 0.0,
    generators: Sequence[torch.Generator] = (),
) -> list[Continuation]:
    """Feed `start_id` to the siblings of every sample of the context, then what each samples, until `end_id` or `max_tokens`.

    Siblings of one sample come in a row. Temperature 0 is greedy; otherwise each draws from its own generator (on the CPU), so
    that what it says does not depend on what it is batched with. Raises ValueError when sampling without a generator each.
    """
    num_said = siblings * context.position_S.shape[0]
    if temperature > 0 and len(generators) != num_said:
        raise ValueError(f"{num_said} samples were given {len(generators)} generators; sampling needs one each")
    transformer = model.language_model.model
    growing = Growing(context, siblings=siblings, room=max_tokens)
    ids: list[list[int]] = [[] for _ in range(num_said)]
    logps: list[list[float]] = [[] for _ in range(num_said)]
    alive = list(range(num_said))
    token_N = torch.full((num_said,), start_id, device=context.position_S.device)
    while alive:
        # No name for the attentions: they would hold the keys and values that `keep` lets go.
        hidden_N1H, _ = transformer(transformer.embed_tokens(token_N[:, None]), None, *growing.next_token())
        logp_NV = model.logits(hidden_N1H)[:, 0].to(widened(model.dtype)).log_softmax(-1)
        token_N = _choose(logp_NV, temperature, [generators[each] for each in alive] if temperature > 0 else [])
        for each, token, logp in zip(alive, token_N.tolist(), logp_NV.gather(1, token_N[:, None])[:, 0].tolist(), strict=True):
            ids[each].append(token)
            logps[each].append(logp)
        going = [row for row, each in enumerate(alive) if ids[each][-1] != end_id and len(ids[each]) < max_tokens]
        if len(going) < len(alive):
            index = torch.tensor(going, dtype=torch.int64, device=token_N.device)
            alive, token_N = [alive[row] for row in going], token_N[index]
            growing.keep(index)
    return [Continuation(tuple(each), tuple(logp)) for each, logp in zip(ids, logps, strict=True)]


def _choose(logp_NV: Tensor, temperature: float, generators: Sequence[torch.Generator]) -> Tensor:
    """The most likely token, or a draw by exponential races: argmax of p / Exp(1) is distributed as p."""
    if temperature == 0:
        return logp_NV.argmax(-1)
    race_NV = torch.stack([torch.empty(logp_NV.shape[1]).exponential_(generator=each) for each in generators])
    return (logp_NV / temperature - race_NV.log().to(logp_NV.device)).argmax(-1)
