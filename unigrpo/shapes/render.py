"""Scenes to pictures: each object in its cell, jittered in position, size and brightness, antialiased.

The jitter is kept small enough that neighbours stay apart by more than a pixel and that diagonal neighbours keep both of their
relations under GenEval's rule (world.related): what a plan promises, its picture keeps.
"""

import numpy as np
from numpy.typing import NDArray

from unigrpo.shapes.world import BACKGROUND, CELL_PIXELS, PALETTE, PICTURE_PIXELS, Item, Scene, cell_row_column, inside

SIZE_RANGE = (5.0, 6.0)
"""Side of an object's box in pixels."""
SHIFT = 0.4
"""Largest shift of an object's centre from its cell's, along each axis, in pixels."""
BRIGHTNESS_RANGE = (0.88, 1.0)
"""Factor on an object's colour."""
SUPERSAMPLING = 4
"""Points along each side of a pixel."""

_POINTS = (np.arange(CELL_PIXELS * SUPERSAMPLING) + 0.5) / SUPERSAMPLING


def render(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a scene: [PICTURE_PIXELS, PICTURE_PIXELS, 3] uint8. Objects that share a cell are painted one over the other."""
    image_HW3 = np.empty((PICTURE_PIXELS, PICTURE_PIXELS, 3))
    image_HW3[:] = BACKGROUND
    for item in scene.items:
        row, column = cell_row_column(item.cell)
        cell = (slice(row * CELL_PIXELS, (row + 1) * CELL_PIXELS), slice(column * CELL_PIXELS, (column + 1) * CELL_PIXELS))
        alpha_HW1 = _coverage(item, rng)[:, :, None]
        color_3 = np.asarray(PALETTE[item.color]) * rng.uniform(*BRIGHTNESS_RANGE)
        image_HW3[cell] = (1 - alpha_HW1) * image_HW3[cell] + alpha_HW1 * color_3
    return np.rint(image_HW3 * 255).astype(np.uint8)


def _coverage(item: Item, rng: np.random.Generator) -> NDArray[np.float64]:
    """The share of each pixel of its cell that a jittered object covers: [CELL_PIXELS, CELL_PIXELS]."""
    size = rng.uniform(*SIZE_RANGE)
    left, top = CELL_PIXELS / 2 + rng.uniform(-SHIFT, SHIFT, size=2) - size / 2
    points = inside(item.shape, (_POINTS[None, :] - left) / size, (_POINTS[:, None] - top) / size)
    coverage_HW: NDArray[np.float64] = points.reshape(CELL_PIXELS, SUPERSAMPLING, CELL_PIXELS, SUPERSAMPLING).mean((1, 3))
    return coverage_HW
