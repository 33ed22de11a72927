"""Which scenes meet a prompt of the shapes world, worked out from its text alone.

Shapes: N placements, K cells in reading order.
"""

from dataclasses import dataclass
from functools import cache
from itertools import combinations, product

import torch
from torch import Tensor

from unigrpo.shapes.prompts import NUMBERS, Group
from unigrpo.shapes.world import CELLS, COLORS, OFFSETS, SHAPES, related

EMPTY = 0
"""What a placement says of a cell where nothing stands; group g is g + 1."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a prompt asks for. Example: "two red circles above a cross" -> (a cross, two red circles), "above"."""

    groups: tuple[Group, ...]
    """One, or two that no object can belong to at once."""
    relation: str | None = None
    """The second group stands in it to the first."""


@cache
def _phrases() -> dict[str, Group]:
    groups = (Group(*choice) for choice in product(NUMBERS, (None, *COLORS), SHAPES))
    return {group.phrase(): group for group in groups}


@cache
def read_prompt(text: str) -> Request:
    """A prompt as unigrpo/shapes/prompts.py words it. Raises ValueError, saying what is understood, for any other."""
    for joint in (*OFFSETS, "and"):
        first, found, second = text.partition(f" {joint} ")
        if found:
            break
    phrases = [first, second] if found else [text]
    if unknown := [phrase for phrase in phrases if phrase not in _phrases()]:
        raise ValueError(
            f"{unknown[0]!r} in {text!r} is not understood; ask for {', '.join(NUMBERS.values())}, then a colour of "
            f"{', '.join(COLORS)} or none, then {', '.join(SHAPES)}; join two with {', '.join(OFFSETS)} or and"
        )
    groups = tuple(_phrases()[phrase] for phrase in phrases)
    if found and joint != "and":
        return Request(groups[::-1], joint)
    return Request(groups)


@cache
def placements(request: Request) -> Tensor:
    """[N, K] int64: every way to fill the cells with what is asked for and nothing else; EMPTY or group index + 1 a cell.

    Raises ValueError when there is none, or when an object could belong to both groups.
    """
    if len(request.groups) == 2:
        one, other = request.groups
        if one.shape == other.shape and (None in (one.color, other.color) or one.color == other.color):
            raise ValueError(f"{one.phrase()!r} and {other.phrase()!r} ask for the same objects; name two colours or shapes")
    rows = []
    for cells in combinations(CELLS, request.groups[0].count):
        for others in _beside(request, cells):
            owner = dict.fromkeys(cells, 1) | dict.fromkeys(others, 2)
            rows.append([owner.get(cell, EMPTY) for cell in CELLS])
    if not rows:
        raise ValueError(f"{request} does not fit {len(CELLS)} cells; ask for fewer objects")
    return torch.tensor(rows)


def _beside(request: Request, cells: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Where the second group may stand when the first one has these cells; nowhere for a request of one group."""
    if len(request.groups) == 1:
        return [()]
    free = [
        cell
        for cell in CELLS
        if cell not in cells and (request.relation is None or all(related(cell, request.relation, each) for each in cells))
    ]
    return list(combinations(free, request.groups[1].count))
