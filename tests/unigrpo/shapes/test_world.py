"""The grid, its relations and the outlines of the shapes."""

import numpy as np
import pytest

from reward_server.detections import relations
from unigrpo.shapes.render import SHIFT, SIZE_RANGE
from unigrpo.shapes.world import (
    CELL_PIXELS,
    CELLS,
    CROSS_ARM,
    OFFSETS,
    OPPOSITE,
    SHAPES,
    cell_at,
    cell_row_column,
    inside,
    related,
)


def test_cells_are_named_by_column_and_row() -> None:
    assert [cell_row_column(cell) for cell in ("A1", "C1", "A2", "B3")] == [(0, 0), (0, 2), (1, 0), (2, 1)]
    assert [cell_at(*cell_row_column(cell)) for cell in CELLS] == list(CELLS)


def test_a_relation_and_its_opposite_agree() -> None:
    for cell in CELLS:
        for target in CELLS:
            for relation, opposite in OPPOSITE.items():
                assert related(cell, relation, target) == related(target, opposite, cell)


def _box(cell: str, shift_x: float, shift_y: float, size: float) -> tuple[float, float, float, float]:
    row, column = cell_row_column(cell)
    x, y = (column + 0.5) * CELL_PIXELS + shift_x, (row + 0.5) * CELL_PIXELS + shift_y
    return (x - size / 2, y - size / 2, x + size / 2, y + size / 2)


@pytest.mark.parametrize("size", SIZE_RANGE)
def test_related_cells_satisfy_genevals_rule_under_the_worst_jitter(size: float) -> None:
    corners = [(x, y) for x in (-SHIFT, SHIFT) for y in (-SHIFT, SHIFT)]
    for cell in CELLS:
        for target in CELLS:
            held = [relations(_box(cell, *one, size), _box(target, *other, size)) for one in corners for other in corners]
            for relation in OFFSETS:
                if related(cell, relation, target):
                    assert all(relation in answer for answer in held)
                else:
                    assert not any(relation in answer for answer in held)


@pytest.mark.parametrize(
    ("shape", "area"),
    [("circle", np.pi / 4), ("square", 1.0), ("triangle", 0.5), ("cross", CROSS_ARM * (2 - CROSS_ARM))],
)
def test_outlines_fill_their_box_and_have_their_area(shape: str, area: float) -> None:
    points = (np.arange(800) + 0.5) / 400 - 0.5
    filled = inside(shape, points[None, :], points[:, None])
    assert filled.sum() / 400**2 == pytest.approx(area, abs=0.01)
    for axis in (0, 1):
        reached = points[filled.any(axis)]
        assert reached[[0, -1]] == pytest.approx([0, 1], abs=0.01)


def test_only_known_shapes_have_an_outline() -> None:
    assert len(SHAPES) == 4
    with pytest.raises(ValueError, match="no shape is called 'hexagon'; the shapes world has circle, square"):
        inside("hexagon", np.zeros(1), np.zeros(1))
