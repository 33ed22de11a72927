"""A limit on the shape of pictures, for judges that scale the shorter side up to a fixed length."""

from torch import Tensor

MAX_ASPECT = 8
"""Longer side over shorter side. A picture of 1 x 1,000,000 pixels is small until its shorter side becomes 736."""


def require_modest_aspect(image_HW3: Tensor) -> None:
    """Raise ValueError for a picture without pixels or with one side more than MAX_ASPECT times the other."""
    height, width = image_HW3.shape[:2]
    if not 0 < max(height, width) <= MAX_ASPECT * min(height, width):
        raise ValueError(
            f"the picture is {width} x {height} pixels; give one whose longer side is at most {MAX_ASPECT} times the shorter"
        )
