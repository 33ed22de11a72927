"""Reading a picture of the shapes world from its pixels alone: connected components, then colour, then shape.

Every pixel is seen as a mixture of the background and one colour of the palette. What holds enough colour is foreground; a
connected piece of it is recognised when nearly all of it is one colour, close to the palette and at full strength, and when
exactly one shape fits it: each shape is compared at the size and place that give it the same area and centroid, measures that
average noise away. What is not recognised is reported, never passed over, except for specks.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unigrpo.shapes.world import (
    BACKGROUND,
    CELL_PIXELS,
    COLORS,
    CROSS_ARM,
    PALETTE,
    PICTURE_PIXELS,
    SHAPES,
    Scene,
    cell_at,
    inside,
)

FOREGROUND = 0.4
"""Least share of colour in a foreground pixel."""
SPECK_PIXELS = 4
"""A component of fewer pixels is noise: the smallest object covers more than twice as many."""
MIN_PURITY = 0.75
"""Least share of a component's pixels that are nearest to the component's colour."""
MIN_STRENGTH = 0.7
"""Least opacity of the inner pixels; the dimmest rendered object has .88."""
MAX_COLOR_ERROR = 0.22
"""Largest distance in RGB between the mean inner colour and the palette's line from background to colour."""
MIN_IOU = 0.85
"""Least soft IoU (shared opacity over the rest, in squares: Tanimoto) with the best template; .97 on clean objects."""
MIN_SCORE = 0.9
"""Least score of a recognised object, GenEval's own threshold for counting: its rule accepts whatever is recognised here."""
IOU_TEMPERATURE = 0.005
"""Soft IoU differences that count as one e-fold of certainty between two shapes."""
SUBPIXELS = 8
"""Templates are placed and sized to this fraction of a pixel."""
WINDOW = 10
"""Pixels along each side of a template: an object and the half pixels around it."""
AREA_AND_CENTROID = {
    "circle": (math.pi / 4, 0.5),
    "square": (1.0, 0.5),
    "triangle": (0.5, 2 / 3),
    "cross": (CROSS_ARM * (2 - CROSS_ARM), 0.5),
}
"""Share of its box that a shape covers, and how far down its centroid lies."""

_COLORS_K3 = np.asarray([PALETTE[name] for name in COLORS]) - np.asarray(BACKGROUND)
_SQUARES_K = (_COLORS_K3**2).sum(1)


MAX_SIDE = 4 * PICTURE_PIXELS
"""Of a picture that is read: the time it takes grows with pixels times components, and larger ones are none of this world."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One recognised object. Example: Detection("circle", (1.5, 1.25, 6.75, 6.5), 0.99, "red")."""

    label: str
    """One of SHAPES."""
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels from the top left corner of the picture."""
    score: float
    """Certainty among the shapes, in (MIN_SCORE, 1]."""
    color: str
    """One of COLORS."""


@dataclass(frozen=True, slots=True)
class Detections:
    """Everything found in one picture."""

    objects: tuple[Detection, ...]
    """In descending score."""
    unrecognised: int
    """Components that are no object of this world: smeared, faded, of mixed or foreign colour, of no or of an unclear shape."""


def detect(image_HW3: Tensor | NDArray[np.uint8]) -> Detections:
    """Find the objects of a uint8 picture [H, W, 3]. Raises ValueError for another shape or dtype, or sides over MAX_SIDE."""
    pixels = np.asarray(image_HW3)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or max(pixels.shape[:2]) > MAX_SIDE:
        raise ValueError(
            f"the detector reads uint8 pictures [H, W, 3] of at most {MAX_SIDE} pixels a side, but got {pixels.dtype} "
            f"{list(pixels.shape)}"
        )
    light_HW3 = pixels / 255 - BACKGROUND
    along_HWK = light_HW3 @ _COLORS_K3.T
    share_HWK = np.clip(along_HWK / _SQUARES_K, 0, 1)
    nearest_HW = (share_HWK * (share_HWK * _SQUARES_K - 2 * along_HWK)).argmin(-1)
    strength_HW = np.take_along_axis(share_HWK, nearest_HW[..., None], -1)[..., 0]
    pieces_HW = _components(strength_HW > FOREGROUND)
    found = []
    unrecognised = 0
    labels, sizes = np.unique(pieces_HW[pieces_HW > 0], return_counts=True)
    for label in labels[sizes >= SPECK_PIXELS]:
        detection = _recognise(pieces_HW == label, light_HW3, strength_HW, nearest_HW)
        if detection is None:
            unrecognised += 1
        else:
            found.append(detection)
    return Detections(tuple(sorted(found, key=lambda detection: -detection.score)), unrecognised)


def followed(scene: Scene, detections: Detections) -> float:
    """The share of a scene's objects that were painted as planned: colour and shape in the cell that it names."""
    painted = {(found.color, found.label, _cell_of(found.box)) for found in detections.objects}
    return sum((item.color, item.shape, item.cell) in painted for item in scene.items) / len(scene.items)


def _cell_of(box: tuple[float, float, float, float]) -> str:
    x1, y1, x2, y2 = box
    return cell_at(int((y1 + y2) / 2 // CELL_PIXELS), int((x1 + x2) / 2 // CELL_PIXELS))


def _components(mask_HW: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Label 4-connected components: 0 outside the mask, one positive number within each."""
    labels_HW = np.zeros((mask_HW.shape[0] + 2, mask_HW.shape[1] + 2), dtype=np.int64)
    inner = labels_HW[1:-1, 1:-1]
    inner[mask_HW] = np.arange(1, mask_HW.sum() + 1)
    while True:
        before = inner.copy()
        vertical = np.maximum(labels_HW[:-2, 1:-1], labels_HW[2:, 1:-1])
        horizontal = np.maximum(labels_HW[1:-1, :-2], labels_HW[1:-1, 2:])
        np.maximum(inner, np.maximum(vertical, horizontal), out=inner)
        inner *= mask_HW
        if (inner == before).all():
            return before


def _recognise(
    piece_HW: NDArray[np.bool_], light_HW3: NDArray[np.float64], strength_HW: NDArray[np.float64], nearest_HW: NDArray[np.int64]
) -> Detection | None:
    """The object that one component shows, or None."""
    votes_K = np.bincount(nearest_HW[piece_HW], minlength=len(COLORS))
    color = int(votes_K.argmax())
    strength_N = strength_HW[piece_HW]
    inner_N = strength_N >= np.sort(strength_N)[strength_N.size // 2]
    strength = float(strength_N[inner_N].mean())
    error = float(np.linalg.norm(light_HW3[piece_HW][inner_N].mean(0) - strength * _COLORS_K3[color]))
    if votes_K[color] < MIN_PURITY * votes_K.sum() or strength < MIN_STRENGTH or error > MAX_COLOR_ERROR:
        return None
    beside_HW = _beside(piece_HW) & (strength_HW <= FOREGROUND)
    opacity_HW = np.clip(light_HW3 @ _COLORS_K3[color] / (_SQUARES_K[color] * strength), -1, 1)
    return _fit(opacity_HW * (piece_HW | beside_HW), COLORS[color])


def _padded(array_HW: NDArray[Any], margin: int) -> NDArray[Any]:
    """The array within a margin of zeros (np.pad takes ten times as long on arrays this small)."""
    height, width = array_HW.shape
    frame = np.zeros((height + 2 * margin, width + 2 * margin), dtype=array_HW.dtype)
    frame[margin:-margin, margin:-margin] = array_HW
    return frame


def _beside(piece_HW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The four neighbours of a component's pixels."""
    framed = _padded(piece_HW, 1)
    beside_HW: NDArray[np.bool_] = framed[:-2, 1:-1] | framed[2:, 1:-1] | framed[1:-1, :-2] | framed[1:-1, 2:]
    return beside_HW


def _fit(opacity_HW: NDArray[np.float64], color: str) -> Detection | None:
    """The shape whose template overlaps best with an object's opacity, if the overlap is large and no other comes near."""
    height, width = opacity_HW.shape
    area = float(opacity_HW.sum())
    x = float(opacity_HW.sum(0) @ (np.arange(width) + 0.5)) / area
    y = float(opacity_HW.sum(1) @ (np.arange(height) + 0.5)) / area
    left, top = int(x) - WINDOW // 2, int(y) - WINDOW // 2
    window_HW = _padded(opacity_HW, WINDOW)[top + WINDOW : top + 2 * WINDOW, left + WINDOW : left + 2 * WINDOW]
    power = float((opacity_HW**2).sum())
    boxes, overlaps = [], []
    for shape, (covered, centroid) in AREA_AND_CENTROID.items():
        size = round(math.sqrt(area / covered) * SUBPIXELS) / SUBPIXELS
        x1, y1 = x - size / 2, y - centroid * size
        boxes.append((x1, y1, x1 + size, y1 + size))
        template_HW, template_power = _template(shape, size, round((x1 - left) * SUBPIXELS), round((y1 - top) * SUBPIXELS))
        shared = float((window_HW * template_HW).sum())
        overlaps.append(shared / (power + template_power - shared))
    best = int(np.argmax(overlaps))
    score = 1 / sum(math.exp((overlap - overlaps[best]) / IOU_TEMPERATURE) for overlap in overlaps)
    if overlaps[best] < MIN_IOU or score <= MIN_SCORE:
        return None
    return Detection(SHAPES[best], boxes[best], score, color)


@lru_cache(maxsize=1 << 15)
def _template(shape: str, size: float, left: int, top: int) -> tuple[NDArray[np.float64], float]:
    """Coverage [WINDOW, WINDOW] by a shape of `size` pixels, its box at left and top in subpixels, with its sum of squares."""
    points = np.arange(WINDOW * SUBPIXELS) + 0.5
    fine = inside(shape, (points[None, :] - left) / (size * SUBPIXELS), (points[:, None] - top) / (size * SUBPIXELS))
    coverage_HW: NDArray[np.float64] = fine.reshape(WINDOW, SUBPIXELS, WINDOW, SUBPIXELS).mean((1, 3))
    return coverage_HW, float((coverage_HW**2).sum())
