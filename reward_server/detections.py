"""What detectors answer, and the geometry of it.

Boxes are [x1, y1, x2, y2] in pixels with inclusive corners: a box of one pixel has x1 == x2. (Boxes of masks end one past the
last pixel; GenEval's overlap and relations take both kinds as they are.)
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from torch import Tensor

_POSITION_THRESHOLD = 0.1
"""Share of both objects' size by which centres may be off without standing in any relation (GenEval)."""

Box = Sequence[float]


class Detection(Protocol):
    """One object seen in a picture."""

    @property
    def label(self) -> str: ...
    @property
    def box(self) -> Box: ...
    @property
    def score(self) -> float: ...
    @property
    def color(self) -> str | None: ...


D = TypeVar("D", bound=Detection)


class Detections(Protocol):
    """All that was seen in a picture: objects with a name, and how many things had none."""

    @property
    def objects(self) -> Sequence[Detection]: ...
    @property
    def unrecognised(self) -> int: ...


Detector = Callable[[Tensor], Detections]
"""From a picture [H, W, 3] uint8."""


def select(
    detections: Iterable[D], *, threshold: float, max_per_class: int | None = None, nms_threshold: float = 1.0
) -> dict[str, list[D]]:
    """The detections that count, by class, each class in descending score; classes without any are left out.

    Kept are scores above (not at) the threshold, then the best `max_per_class` of a class, then those that overlap no better
    one of their class by an IoU of `nms_threshold` or more (1.0 suppresses nothing). Of equal scores the later detection comes
    first, as in GenEval's reversed sort. Raises ValueError for a score or box that is not finite.
    """
    classes: dict[str, list[D]] = {}
    for detection in detections:
        if not all(map(math.isfinite, (detection.score, *detection.box))):
            raise ValueError(f"the detector answered a number that is not finite: {detection!r}")
        if detection.score > threshold:
            classes.setdefault(detection.label, []).append(detection)
    kept = {}
    for label, members in classes.items():
        ranked = sorted(members, key=lambda detection: detection.score)[::-1][:max_per_class]
        kept[label] = ranked if nms_threshold == 1.0 else _suppress(ranked, nms_threshold)
    return kept


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two inclusive pixel boxes, each side counted as x2 - x1 + 1."""
    overlap = _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = _area(a) + _area(b) - overlap
    return overlap / union if union else 0.0


def relations(a: Box, b: Box) -> tuple[str, ...]:
    """How a stands to b: none, one or two of requirements.RELATIONS, in that order (GenEval's rule).

    The offset of the centres, shrunk on each axis by a tenth of both sizes, is set against its unshrunk length; an axis that
    keeps more than half of it is a relation.
    """
    offset = [((a[i] + a[i + 2]) / 2) - ((b[i] + b[i + 2]) / 2) for i in (0, 1)]
    slack = [_POSITION_THRESHOLD * (abs(a[i + 2] - a[i]) + abs(b[i + 2] - b[i])) for i in (0, 1)]
    shrunk = [math.copysign(max(abs(o) - s, 0.0), o) for o, s in zip(offset, slack, strict=True)]
    if max(map(abs, shrunk)) < 1e-3:
        return ()
    length = math.sqrt(offset[0] * offset[0] + offset[1] * offset[1])
    x, y = shrunk[0] / length, shrunk[1] / length
    holds = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return tuple(relation for relation, held in holds.items() if held)


def _suppress(ranked: Sequence[D], nms_threshold: float) -> list[D]:
    kept: list[D] = []
    for candidate in ranked:
        if all(iou(better.box, candidate.box) < nms_threshold for better in kept):
            kept.append(candidate)
    return kept


def _area(box: Box) -> float:
    return max(box[2] - box[0] + 1, 0.0) * max(box[3] - box[1] + 1, 0.0)
