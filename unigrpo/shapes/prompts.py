"""The prompts of the shapes world, in GenEval's six categories and one of its own, split into training, tuning and held-out.

Hyper-parameters are chosen on the tuning prompts, results are told on the held-out ones. Prompts that mean the same ("a circle
left of a square", "a square right of a circle") are one meaning, phrased in one way, so nothing held out is trained under
another wording. Meanings are ranked by a hash: which are used, and in which split, is the same everywhere. The categories with
too few meanings to split are shared by all splits and count as seen.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, islice, permutations, product
from typing import Any, Literal

from unigrpo.shapes.world import COLORS, OPPOSITE, PLURALS, SHAPES
from unigrpo.types import Prompt

NUMBERS = {1: "a", 2: "two", 3: "three", 4: "four", 5: "five"}
"""How a prompt says a count."""
SEEN_KINDS = ("single_object", "two_object", "colors")
"""Categories shared by all splits."""
Split = Literal["train", "tuning", "held_out"]
SPLIT_SIZES: dict[str, dict[Split, int]] = {
    "counting": {"held_out": 45, "train": 52, "tuning": 15},
    "position": {"held_out": 8, "train": 13, "tuning": 3},
    "position with colors": {"held_out": 72, "train": 144, "tuning": 24},
    "color_attr": {"held_out": 75, "train": 80, "tuning": 25},
    "compositional": {"held_out": 100, "train": 200, "tuning": 33},
}
"""Pool of meanings -> how many of each split, in the order in which they are taken; no other meaning of the pool is used."""


@dataclass(frozen=True, slots=True)
class Group:
    """Objects that a prompt asks for together. Example: Group(2, "red", "circle") is "two red circles"."""

    count: int
    color: str | None
    """None leaves the colour open."""
    shape: str

    def phrase(self) -> str:
        noun = self.shape if self.count == 1 else PLURALS[self.shape]
        return " ".join(word for word in (NUMBERS[self.count], self.color, noun) if word)

    def clause(self) -> dict[str, Any]:
        """GenEval's requirement: class, count and the colour unless it is open."""
        return {"class": self.shape, "count": self.count} | ({"color": self.color} if self.color else {})


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a prompt asks for. With a relation, the second group stands in it to the first."""

    kind: str
    groups: tuple[Group, ...]
    relation: str | None = None

    def rank(self) -> int:
        """A fixed pseudo-random number."""
        return int.from_bytes(hashlib.blake2b(repr(self).encode(), digest_size=8).digest(), "big")

    def phrased(self) -> "Meaning":
        """The same meaning with its two groups in either order, as its hash has it."""
        if len(self.groups) == 1 or self.rank() % 2:
            return self
        return Meaning(self.kind, self.groups[::-1], OPPOSITE[self.relation] if self.relation else None)

    def metadata(self) -> dict[str, Any]:
        """GenEval's format; counting excludes one more of the class, as GenEval does."""
        include = [group.clause() for group in self.groups]
        metadata: dict[str, Any] = {"tag": self.kind, "include": include}
        if self.kind == "counting":
            metadata["exclude"] = [{"class": group.shape, "count": group.count + 1} for group in self.groups]
        phrases = [group.phrase() for group in self.groups]
        if self.relation:
            include[1]["position"] = [self.relation, 0]
            return metadata | {"prompt": f"{phrases[1]} {self.relation} {phrases[0]}"}
        return metadata | {"prompt": " and ".join(phrases)}


@cache
def shapes_prompts(split: Split) -> tuple[Prompt, ...]:
    """The prompts of one split: those shared first, then those of this split only; the same on every machine."""
    meanings = [meaning for kind in SEEN_KINDS for meaning in _pool(kind)]
    for kind, sizes in SPLIT_SIZES.items():
        ranked = iter(sorted(_pool(kind), key=Meaning.rank))
        meanings += {name: list(islice(ranked, size)) for name, size in sizes.items()}[split]
    metadata = [meaning.phrased().metadata() for meaning in meanings]
    return tuple(Prompt(index=index, text=fields["prompt"], metadata=fields) for index, fields in enumerate(metadata))


def _pool(kind: str) -> Iterator[Meaning]:
    """Every meaning of a pool, each once: of two equal phrasings only one is made."""
    pairs = list(combinations(SHAPES, 2))
    match kind:
        case "single_object":
            yield from (Meaning(kind, (Group(1, None, shape),)) for shape in SHAPES)
        case "colors":
            yield from (Meaning(kind, (Group(1, color, shape),)) for color, shape in product(COLORS, SHAPES))
        case "two_object":
            yield from (Meaning(kind, (Group(1, None, one), Group(1, None, other))) for one, other in pairs)
        case "counting":
            yield from (
                Meaning(kind, (Group(count, color, shape),))
                for count, color, shape in product((2, 3, 4, 5), (None, *COLORS), SHAPES)
            )
        case "color_attr":
            for (one, other), (color, other_color) in product(pairs, permutations(COLORS, 2)):
                yield Meaning(kind, (Group(1, color, one), Group(1, other_color, other)))
        case "position":
            yield from _related("position", [(1, 1)], [(None, None)])
        case "position with colors":
            open_or_named = list(product((None, *COLORS), (None, *COLORS)))
            yield from _related("position", [(1, 1)], [pair for pair in open_or_named if any(pair)])
        case "compositional":
            counts = [(one, other) for one, other in product((1, 2, 3), (1, 2, 3)) if 3 <= one + other <= 5]
            yield from _related(kind, counts, list(product(COLORS, COLORS)))


def _related(
    kind: str, counts: Sequence[tuple[int, int]], colors: Sequence[tuple[str | None, str | None]]
) -> Iterator[Meaning]:
    """Two groups of different shapes in each relation; the other two relations say the same with the groups swapped."""
    for shapes, (one, other), (color, other_color), relation in product(
        permutations(SHAPES, 2), counts, colors, ("left of", "above")
    ):
        yield Meaning(kind, (Group(one, color, shapes[0]), Group(other, other_color, shapes[1])), relation)
