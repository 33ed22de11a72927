"""Chains whose large spans, pictures and trajectories, stay in Ray's object store on their way between actors.

The driver holds a chain with `Kept` spans: references and no tensors. In a call they become `Stored` spans beside the objects
themselves, which Ray hands to the actor, and the actor puts each object back in its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ray import ObjectRef

from unigrpo.types import Given, Sample, Thought


@dataclass(frozen=True, slots=True)
class Kept:
    """A span in the object store, as the driver knows it."""

    ref: ObjectRef
    num_tokens: int
    """What it adds to the cost of a sample, beside what every sample of a step has."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A span on its way to an actor: the index-th of the objects that travel with the call."""

    index: int


Held = Given | Thought | Kept
"""A span as the driver holds it."""
Sent = Given | Thought | Stored
"""A span as it travels."""


class Freight:
    """The objects of one call, each once however many chains hold it."""

    def __init__(self) -> None:
        self.refs: list[ObjectRef] = []
        self._index: dict[ObjectRef, int] = {}

    def load(self, spans: Sequence[Held]) -> tuple[Sent, ...]:
        """The chain as it travels."""
        return tuple(self._stored(span.ref) if isinstance(span, Kept) else span for span in spans)

    def _stored(self, ref: ObjectRef) -> Stored:
        if ref not in self._index:
            self._index[ref] = len(self.refs)
            self.refs.append(ref)
        return Stored(self._index[ref])


def unloaded(spans: Sequence[Sent], objects: Sequence[Any]) -> tuple[Any, ...]:
    """The chain as it was, its objects in place of what stood for them."""
    return tuple(objects[span.index] if isinstance(span, Stored) else span for span in spans)


S = TypeVar("S")


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain(Generic[S]):
    """A Sample as the driver holds it, or on its way to a learner rank."""

    prompt: str
    spans: tuple[S, ...]
    advantages: tuple[float, ...]

    def loaded(self: "Chain[Held]", freight: Freight) -> "Chain[Sent]":
        """The chain as it travels, its large spans in `freight`."""
        return Chain(prompt=self.prompt, spans=freight.load(self.spans), advantages=self.advantages)

    def sample(self: "Chain[Sent]", objects: Sequence[Any]) -> Sample:
        """The Sample, with the objects of its call."""
        return Sample(prompt=self.prompt, spans=unloaded(self.spans, objects), advantages=self.advantages)
