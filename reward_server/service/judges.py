"""The seam between the application and those who judge, wherever they run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from unigrpo.types import Prompt, Score, ScoreFailure


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedItem:
    """One picture as it was sent, not decoded yet, and what it was painted for."""

    prompt: Prompt
    """Its index is the item's place in the request."""
    image: bytes
    """PNG or WebP."""
    pixels: int
    """Height times width, from the picture's header."""


Verdict = Score | ScoreFailure


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What a verifier says of itself. Example: Description(version="1", bounds=(0.0, 1.0))."""

    version: str
    bounds: tuple[float, float]


class Unavailable(RuntimeError):
    """No judge can be had now; worth asking again later."""


class Judge(Protocol):
    """All replicas of one verifier."""

    async def is_ready(self) -> bool:
        """Whether a replica can judge now."""

    async def describe(self) -> Description:
        """What it is, cheap after the first time. Raises Unavailable while no replica has said so."""

    async def judge(self, items: Sequence[EncodedItem]) -> list[Verdict]:
        """One verdict an item, in order. Raises Unavailable when no replica takes them."""
