"""Pictures of scenes: the right pixels, jittered by the generator alone."""

import numpy as np
import pytest

from unigrpo.shapes.render import render
from unigrpo.shapes.world import BACKGROUND, CELL_PIXELS, PALETTE, PICTURE_PIXELS, Item, Scene, cell_row_column


def test_an_empty_scene_is_background() -> None:
    image = render(Scene(()), np.random.default_rng(0))
    assert image.shape == (PICTURE_PIXELS, PICTURE_PIXELS, 3)
    assert image.dtype == np.uint8
    assert (image == np.rint(np.asarray(BACKGROUND) * 255)).all()


@pytest.mark.parametrize("cell", ["A1", "C1", "B2", "A3"])
def test_an_object_shows_its_colour_in_its_cell_and_nowhere_else(cell: str) -> None:
    image = render(Scene((Item("yellow", "square", cell),)), np.random.default_rng(0)) / 255
    row, column = (place * CELL_PIXELS for place in cell_row_column(cell))
    centre = image[row + 4, column + 4]
    assert centre == pytest.approx(np.asarray(PALETTE["yellow"]) * centre[0] / PALETTE["yellow"][0], abs=0.01)
    assert centre[0] >= 0.88 * PALETTE["yellow"][0] - 0.01
    elsewhere = image.copy()
    elsewhere[row : row + CELL_PIXELS, column : column + CELL_PIXELS] = BACKGROUND
    assert elsewhere == pytest.approx(np.broadcast_to(BACKGROUND, image.shape), abs=0.003)


def test_edges_are_antialiased_to_the_area_of_the_object() -> None:
    for seed in range(20):
        image = render(Scene((Item("white", "circle", "B2"),)), np.random.default_rng(seed)) / 255
        share = (image[..., 0] - BACKGROUND[0]) / (image[..., 0].max() - BACKGROUND[0])
        assert np.pi / 4 * 5**2 * 0.97 < share.sum() < np.pi / 4 * 6**2 * 1.03


def test_the_generator_decides_the_jitter() -> None:
    scene = Scene((Item("red", "triangle", "A1"), Item("blue", "cross", "C2")))
    one, again, other = (render(scene, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert (one == again).all()
    assert (one != other).any()
