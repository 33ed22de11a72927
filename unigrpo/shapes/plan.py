"""Thoughts of the shapes world: a plan of the picture, object by object, written as a reasoning trace.

`<think> red circle A1 ; red circle B2 ; blue square C3 </think>` plans three objects. A prompt leaves things open (cells, often
colours); a plan decides them. A correct plan satisfies a prompt's clauses strictly: exact counts, nothing else in the picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from unigrpo.shapes.world import CELLS, COLORS, GRID, OFFSETS, SHAPES, Item, Scene, cell_at, cell_row_column, related

OPEN, CLOSE, SEPARATOR = "<think>", "</think>", ";"

Metadata = Mapping[str, Any]
"""What a prompt asks for, in GenEval's format (types.Prompt.metadata)."""


def write_trace(scene: Scene) -> str:
    """The reasoning trace of a plan, words separated by single spaces."""
    objects = f" {SEPARATOR} ".join(f"{item.color} {item.shape} {item.cell}" for item in scene.items)
    return f"{OPEN} {objects} {CLOSE}"


def read_trace(text: str) -> Scene | None:
    """The plan that a thought states, or None when the text is no trace: a policy may write anything."""
    words = text.split(" ")
    if len(words) < 2 or words[0] != OPEN or words[-1] != CLOSE:
        return None
    items = []
    for phrase in " ".join(words[1:-1]).split(f" {SEPARATOR} "):
        match phrase.split(" "):
            case [color, shape, cell] if color in COLORS and shape in SHAPES and cell in CELLS:
                items.append(Item(color, shape, cell))
            case _:
                return None
    return Scene(tuple(items))


def plan_is_correct(metadata: Metadata, scene: Scene) -> bool:
    """Whether a scene shows exactly what the prompt asks for: every count, colour and relation, and nothing else."""
    clauses = metadata["include"]
    groups = [[item.cell for item in scene.items if _belongs(item, clause)] for clause in clauses]
    cells = {item.cell for item in scene.items}
    exact = all(len(group) == clause["count"] for group, clause in zip(groups, clauses, strict=True))
    nothing_else = len(cells) == len(scene.items) == sum(clause["count"] for clause in clauses)
    return exact and nothing_else and all(_in_relation(*pair, groups) for pair in zip(groups, clauses, strict=True))


def draw_plan(metadata: Metadata, rng: np.random.Generator) -> Scene:
    """A correct plan at random: cells among those the relations allow, open colours freely; each group in reading order.

    Raises ValueError when no plan can satisfy the prompt.
    """
    clauses = metadata["include"]
    groups = _place(clauses, [], rng)
    if groups is None or not all(clause["class"] in SHAPES and clause.get("color", "red") in COLORS for clause in clauses):
        raise ValueError(
            f"no plan can satisfy {metadata['prompt']!r}; ask for shapes among {', '.join(SHAPES)}, colours among "
            f"{', '.join(COLORS)}, and counts and relations that fit {GRID}x{GRID} cells"
        )
    return Scene(
        tuple(
            Item(clause.get("color") or str(rng.choice(COLORS)), clause["class"], cell)
            for clause, cells in zip(clauses, groups, strict=True)
            for cell in cells
        )
    )


def corrupt_plan(metadata: Metadata, scene: Scene, rng: np.random.Generator) -> Scene:
    """A plan made wrong for its prompt by one fault: a count, a colour, a shape or the relation mirrored.

    A fault that would leave the plan correct (an open colour changed, no relation to mirror) is not among those drawn from.
    """
    index = int(rng.integers(len(scene.items)))
    item = scene.items[index]
    plans = [
        _change_count(scene, index, rng),
        _with_items(scene, index, recolored(item, rng)),
        _with_items(scene, index, reshaped(item, rng)),
        _mirrored(metadata, scene),
    ]
    wrong = [plan for plan in plans if not plan_is_correct(metadata, plan)]
    return wrong[rng.integers(len(wrong))]


def recolored(item: Item, rng: np.random.Generator) -> Item:
    """The object in another colour."""
    return replace(item, color=_any_but(item.color, COLORS, rng))


def reshaped(item: Item, rng: np.random.Generator) -> Item:
    """The object in another shape."""
    return replace(item, shape=_any_but(item.shape, SHAPES, rng))


def _any_but(excluded: str, choices: Sequence[str], rng: np.random.Generator) -> str:
    return str(rng.choice([choice for choice in choices if choice != excluded]))


def _with_items(scene: Scene, index: int, *items: Item) -> Scene:
    """The scene with its object at `index` replaced by these."""
    return Scene((*scene.items[:index], *items, *scene.items[index + 1 :]))


def _change_count(scene: Scene, index: int, rng: np.random.Generator) -> Scene:
    """The scene with one object dropped, or one more like it in a free cell; a lone object is never dropped."""
    if len(scene.items) > 1 and rng.random() < 0.5:
        return _with_items(scene, index)
    taken = {item.cell for item in scene.items}
    twin = replace(scene.items[index], cell=str(rng.choice([cell for cell in CELLS if cell not in taken])))
    return _with_items(scene, index, *sorted((scene.items[index], twin), key=lambda item: CELLS.index(item.cell)))


def _mirrored(metadata: Metadata, scene: Scene) -> Scene:
    """The scene flipped along the axis of the prompt's first relation; itself when there is none."""
    relations = [clause["position"][0] for clause in metadata["include"] if "position" in clause]
    if not relations:
        return scene
    row_step, column_step = OFFSETS[relations[0]]
    flipped = []
    for item in scene.items:
        row, column = cell_row_column(item.cell)
        flipped.append(
            replace(item, cell=cell_at(GRID - 1 - row if row_step else row, GRID - 1 - column if column_step else column))
        )
    return Scene(tuple(flipped))


def _belongs(item: Item, clause: Mapping[str, Any]) -> bool:
    return bool(item.shape == clause["class"] and item.color == clause.get("color", item.color))


def _in_relation(cells: Sequence[str], clause: Mapping[str, Any], groups: Sequence[Sequence[str]]) -> bool:
    """Whether a clause's cells all stand in its relation, if it has one, to all cells of the group it names."""
    if "position" not in clause:
        return True
    relation, target = clause["position"]
    return all(related(cell, relation, other) for cell in cells for other in groups[target])


def _place(
    clauses: Sequence[Mapping[str, Any]], placed: list[tuple[str, ...]], rng: np.random.Generator
) -> list[tuple[str, ...]] | None:
    """Cells for every clause, the first ones already placed; None when there are none left that fit."""
    if len(placed) == len(clauses):
        return placed
    clause = clauses[len(placed)]
    taken = {cell for group in placed for cell in group}
    allowed = [cell for cell in CELLS if cell not in taken and _in_relation((cell,), clause, placed)]
    choices = list(combinations(allowed, clause["count"]))
    for index in rng.permutation(len(choices)):
        groups = _place(clauses, [*placed, choices[index]], rng)
        if groups is not None:
            return groups
    return None
