"""Hand-made detections, and a world of boxes to place them in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unigrpo.types import Prompt


@dataclass(frozen=True)
class Seen:
    label: str
    box: tuple[float, ...]
    score: float = 1.0
    color: str | None = None


@dataclass(frozen=True)
class Picture:
    objects: list[Seen] = field(default_factory=list)
    unrecognised: int = 0


def seen(text: str, *, row: float = 0, column: float = 0, score: float = 1.0) -> Seen:
    """ "red circle" in a cell of 8 pixels: row 0 is the top, column 0 the left."""
    color, label = text.split()
    return Seen(label, (8 * column + 1, 8 * row + 1, 8 * column + 6, 8 * row + 6), score, color)


def prompt(metadata: Mapping[str, Any]) -> Prompt:
    return Prompt(index=7, text="a picture", metadata=metadata)
