"""What a painter reads before it paints, and the shorter contexts that guidance compares it with (BAGEL.md 9 and 10).

Shapes: S samples, D distinct contexts.
"""

from collections.abc import Hashable, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from unigrpo.layout import close_thought, segments_to_ids
from unigrpo.models.bagel.context import Context
from unigrpo.models.bagel.model import Bagel
from unigrpo.models.bagel.packing import splits_of
from unigrpo.types import Given, GivenPicture, Thought

ContextSpan = Given | GivenPicture | Thought
Spans = Sequence[ContextSpan]


def read(model: Bagel, spans_S: Sequence[Spans]) -> Context:
    """The context of every sample; equal ones are read once. A picture equals itself only, not a copy of it."""
    place: dict[Hashable, int] = {}
    distinct_D: list[Spans] = []
    index_S = []
    for spans in spans_S:
        key = tuple(id(span) if isinstance(span, GivenPicture) else span for span in spans)
        if key not in place:
            place[key] = len(distinct_D)
            distinct_D.append(spans)
        index_S.append(place[key])
    context = model.read([splits_of(spans, model.config) for spans in distinct_D])
    return context.select(torch.tensor(index_S, device=context.position_S.device))


def read_thoughts(model: Bagel, spans_S: Sequence[Spans]) -> Context:
    """The same where each ends with a text of its own: what comes before is read once for all siblings and handed to each."""
    context = read(model, [spans[:-1] for spans in spans_S])
    ids_S = [torch.tensor(segments_to_ids([_bare(spans[-1], model)], model.config)) for spans in spans_S]
    device = context.position_S.device
    length_S = torch.tensor([len(ids) for ids in ids_S], device=device)
    return model.prefill(pad_sequence(ids_S, batch_first=True).to(device), length_S, context)[1]


def without_last_text(spans: Spans) -> Spans:
    """What came before the last text that the policy was given: for text to image the system prompt, or nothing."""
    last = max(place for place, span in enumerate(spans) if isinstance(span, Given))
    return spans[:last]


def without_pictures(spans: Spans) -> Spans:
    """All texts that the policy was given, without pictures and without its own thoughts."""
    return [span for span in spans if isinstance(span, Given)]


def _bare(span: ContextSpan, model: Bagel) -> Sequence[int]:
    assert not isinstance(span, GivenPicture), "a context ends with a text"
    return span.token_ids if isinstance(span, Given) else close_thought(span, model.config.eos_token_id)
