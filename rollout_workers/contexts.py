"""Reading what comes before a picture.

What several samples share is read once. Texts that were given are the same where their tokens are; a picture and a thought are
the same as themselves only, not as a copy.

Shapes: S samples, D distinct contexts.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from unigrpo.contexts import ContextSpan, Spans
from unigrpo.layout import close_thought, segments_to_ids
from unigrpo.models.bagel.context import Context
from unigrpo.models.bagel.model import Bagel
from unigrpo.models.bagel.packing import splits_of
from unigrpo.types import Given, GivenPicture


def read(model: Bagel, spans_S: Sequence[Spans]) -> Context:
    """The context of every sample."""
    distinct = _Distinct.of(spans_S)
    context = model.read([splits_of(spans, model.config) for spans in distinct.spans_D])
    return distinct.handed_out(context)


def read_thoughts(model: Bagel, spans_S: Sequence[Spans]) -> Context:
    """The same where each ends with a text: what comes before is read once for all siblings, whatever their last texts."""
    distinct = _Distinct.of(spans_S)
    context = read(model, [spans[:-1] for spans in distinct.spans_D])
    ids_D = [torch.tensor(segments_to_ids([_bare(spans[-1], model)], model.config)) for spans in distinct.spans_D]
    device = context.position_S.device
    length_D = torch.tensor([len(ids) for ids in ids_D], device=device)
    return distinct.handed_out(model.prefill(pad_sequence(ids_D, batch_first=True).to(device), length_D, context)[1])


@dataclass(frozen=True, slots=True)
class _Distinct:
    """The different ones among the spans of some samples, and whose each is."""

    spans_D: list[Spans]
    index_S: list[int]

    @classmethod
    def of(cls, spans_S: Sequence[Spans]) -> "_Distinct":
        place: dict[Hashable, int] = {}
        spans_D: list[Spans] = []
        index_S = []
        for spans in spans_S:
            key = tuple(span if isinstance(span, Given) else id(span) for span in spans)
            if key not in place:
                place[key] = len(spans_D)
                spans_D.append(spans)
            index_S.append(place[key])
        return cls(spans_D, index_S)

    def handed_out(self, context_D: Context) -> Context:
        """Each sample's own of a context read for the distinct ones."""
        if len(self.spans_D) == len(self.index_S):
            return context_D
        return context_D.select(torch.tensor(self.index_S, device=context_D.position_S.device))


def _bare(span: ContextSpan, model: Bagel) -> Sequence[int]:
    assert not isinstance(span, GivenPicture), "a context ends with a text"
    return span.token_ids if isinstance(span, Given) else close_thought(span, model.config.eos_token_id)
