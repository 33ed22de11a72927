"""The shapes world: coloured shapes on a grid of cells, small enough for a CPU and rich enough to tell methods apart.

A scene is what a thought plans and a picture shows. Colours are GenEval's names at far corners of the RGB cube, seen on a dark
background; cells are named like a chessboard's, column A..C and row 1..3, A1 at the top left. The cells are as large as one
latent token of the small model, so that a planned object and the token that paints it line up.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRID = 3
"""Cells along each side."""
CELL_PIXELS = 8
"""Pixels along each side of a cell."""
PICTURE_PIXELS = GRID * CELL_PIXELS
"""Pixels along each side of a picture."""

BACKGROUND = (0.09, 0.10, 0.13)
"""RGB in [0, 1]."""
PALETTE = {
    "red": (0.92, 0.14, 0.16),
    "yellow": (0.98, 0.82, 0.08),
    "green": (0.10, 0.76, 0.26),
    "blue": (0.12, 0.40, 0.98),
    "purple": (0.74, 0.20, 0.88),
    "white": (0.97, 0.97, 0.97),
}
"""Colour name -> RGB in [0, 1] at full brightness."""
COLORS = tuple(PALETTE)
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
SHAPES = tuple(PLURALS)
CELLS = tuple(f"{column}{row}" for row in range(1, GRID + 1) for column in "ABC")
"""In reading order: A1, B1, C1, A2, ..."""
OFFSETS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
"""Relation -> unit step (row, column) from the target towards the object that stands in this relation to it."""
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

CROSS_ARM = 0.36
"""Width of a cross's arms as a share of its box."""


@dataclass(frozen=True, slots=True, order=True)
class Item:
    """One object. Example: Item(color="red", shape="circle", cell="A1")."""

    color: str
    """A key of PALETTE."""
    shape: str
    """One of SHAPES."""
    cell: str
    """One of CELLS."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture should show, object by object. A sampled plan may be impossible: two objects in one cell."""

    items: tuple[Item, ...]
    """In the order a thought names them."""


def cell_row_column(cell: str) -> tuple[int, int]:
    """Row and column of a cell, both from 0: "C1" -> (0, 2)."""
    return divmod(CELLS.index(cell), GRID)


def cell_at(row: int, column: int) -> str:
    """The name of the cell in a row and column, both from 0: (0, 2) -> "C1"."""
    return CELLS[row * GRID + column]


def related(cell: str, relation: str, target: str) -> bool:
    """Whether an object in `cell` clearly stands in the relation to one in `target`, as GenEval judges their pictures.

    GenEval's rule (relative_position) asks that the offset along the axis, less a tenth of both widths, be more than half of
    the distance: on this grid the axis must hold at least as many cells as the other one, so diagonals stand in two relations.
    """
    (row, column), (target_row, target_column) = cell_row_column(cell), cell_row_column(target)
    row_step, column_step = OFFSETS[relation]
    down, right = row - target_row, column - target_column
    along = row_step * down + column_step * right
    across = abs(column_step * down) + abs(row_step * right)
    return along > 0 and along >= across


def inside(shape: str, u: NDArray[np.floating], v: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which points lie in the shape that fills the unit box; u runs right and v down. Raises ValueError for another shape."""
    points: NDArray[np.bool_] = (np.minimum(u, v) >= 0) & (np.maximum(u, v) <= 1)
    match shape:
        case "circle":
            points &= (u - 0.5) ** 2 + (v - 0.5) ** 2 <= 0.25
        case "square":
            pass
        case "triangle":
            points &= np.abs(u - 0.5) <= v / 2
        case "cross":
            points &= np.minimum(np.abs(u - 0.5), np.abs(v - 0.5)) <= CROSS_ARM / 2
        case _:
            raise ValueError(f"no shape is called {shape!r}; the shapes world has {', '.join(SHAPES)}")
    return points
