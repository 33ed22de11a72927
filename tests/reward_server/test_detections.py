"""Overlap and relations of boxes, worked out by hand."""

import pytest

from reward_server.detections import iou, relations


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 9, 9), (0, 0, 9, 9), 1.0),
        ((0, 0, 0, 0), (0, 0, 0, 0), 1.0),
        ((0, 0, 9, 9), (9, 0, 18, 9), 10 / 190),
        ((0, 0, 9, 9), (10, 0, 19, 9), 0.0),
        ((0, 0, 9, 9), (5, 5, 6, 6), 4 / 100),
        ((5, 5, 0, 0), (5, 5, 0, 0), 0.0),
    ],
)
def test_iou_counts_inclusive_pixels(a: tuple[float, ...], b: tuple[float, ...], expected: float) -> None:
    assert iou(a, b) == pytest.approx(expected)
    assert iou(b, a) == pytest.approx(expected)


def square(x: float, y: float) -> tuple[float, ...]:
    return (x - 5, y - 5, x + 5, y + 5)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0, 0, ()),
        (2, 0, ()),  # within a tenth of 10 + 10
        (3, 0, ()),  # 1 of 3 is left
        (4, 0, ()),  # half is not more than half
        (5, 0, ("right of",)),  # 3 of 5
        (-5, 0, ("left of",)),
        (0, -5, ("above",)),
        (0, 5, ("below",)),
        (30, 30, ("right of", "below")),  # 28 of 42.4 on each axis
        (-30, -30, ("left of", "above")),
        (30, 18, ("right of",)),  # 28 and 16 of 35.0
    ],
)
def test_relations_of_two_boxes(x: float, y: float, expected: tuple[str, ...]) -> None:
    assert relations(square(x, y), square(0, 0)) == expected
