"""A picture on its way into BAGEL: read, brought to a size the model has positions for, normalised, cut into patches.

The model sees a picture twice: as latents, at the size of `latent_rule`, and as patches, at the size that `vision_rule` gives
for the picture already resized by the first.

Shapes: HW3 and 3HW a picture, V patches of a picture, C numbers of a patch.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unigrpo.models.bagel.autoencoder import to_tokens
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.pictures import decode_picture

MAX_PIXELS = 14 * 14 * 9 * 1024
"""Area from which BAGEL shrinks a picture whatever its sides."""
SHORTEST_IN_PATCHES = 16
"""Of the shorter side the tower sees, where the picture's shape leaves it that much."""
SOURCE_FORMATS = ("PNG", "JPEG", "WEBP")
MAX_SOURCE_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class ResizeRule:
    """Which size a picture is brought to. Example: ResizeRule(980, 224, 14, MAX_PIXELS).size(200, 300) is (224, 336).

    1. Both sides are scaled by max(min(longest / longer side, 1), shortest / shorter side): never up but for `shortest`.
    2. If the area is then above max_pixels, both sides are scaled by max_pixels / area (BAGEL's rule; its root would do).
    3. If the longer side is then above `longest`, both are scaled by longest / longer side: `shortest` yields to it.

    Each scaling rounds a side to whole pixels, then to whole strides, at least one; ties go to the even number.
    """

    longest: int
    """Pixels, a multiple of the stride: no side is longer in the end."""
    shortest: int
    """Pixels that the shorter side has, up to rounding, where the two other bounds leave them."""
    stride: int
    """Pixels: both sides become multiples of it."""
    max_pixels: int
    """See 2."""

    def __post_init__(self) -> None:
        assert self.longest % self.stride == 0, f"{self.longest} pixels are not a multiple of {self.stride}"

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing, pixels."""
        scale = max(min(self.longest / max(height, width), 1.0), self.shortest / min(height, width))
        height, width = self._scaled(height, scale), self._scaled(width, scale)
        if (area := height * width) > self.max_pixels:
            height, width = (self._scaled(side, self.max_pixels / area) for side in (height, width))
        if (longer := max(height, width)) > self.longest:
            height, width = (self._scaled(side, self.longest / longer) for side in (height, width))
        return height, width

    def _scaled(self, side: int, scale: float) -> int:
        return max(1, round(round(side * scale) / self.stride)) * self.stride


def latent_rule(config: BagelConfig) -> ResizeRule:
    """Sizes that the latent position table holds: 1024, 512 and 16 pixels in the released model."""
    stride = config.vae.downsample * config.latent_patch_size
    longest = stride * config.max_latent_size
    return ResizeRule(longest, longest // 2, stride, MAX_PIXELS)


def vision_rule(config: BagelConfig) -> ResizeRule:
    """Sizes that the vision position table holds: 980, 224 and 14 pixels in the released model."""
    assert config.vision is not None, "a model without vision sees no patches"
    stride, side = config.vision.patch_size, config.vision.max_patches_per_side
    return ResizeRule(stride * side, stride * min(SHORTEST_IN_PATCHES, side), stride, MAX_PIXELS)


def read_source(path: Path) -> Tensor:
    """[H, W, 3] uint8 of a PNG, JPEG or WEBP file, converted as unigrpo.pictures says.

    Raises ValueError, naming the file, for one that is missing, no file, too large, damaged, or refused by decode_picture.
    """
    try:
        if not path.is_file():
            raise ValueError("there is no such file; give a PNG, JPEG or WEBP picture")
        if (size := path.stat().st_size) > MAX_SOURCE_BYTES:
            raise ValueError(f"the file has {size} bytes; {MAX_SOURCE_BYTES} are allowed, save the picture smaller")
        return decode_picture(path.read_bytes(), formats=SOURCE_FORMATS)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: {error}") from error


def resized(image_HW3: Tensor, rule: ResizeRule) -> Tensor:
    """[H, W, 3] uint8 at the rule's size, by Pillow's bicubic filter (which averages over what it shrinks)."""
    height, width = rule.size(*image_HW3.shape[:2])
    picture = Image.fromarray(image_HW3.numpy()).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture))


def normalised(image_HW3: Tensor) -> Tensor:
    """[3, H, W] float32 in [-1, 1] from bytes."""
    # In two steps, as the reference takes them: x / 127.5 - 1 differs in the last bit.
    return (image_HW3.permute(2, 0, 1).to(torch.float32) / 255 - 0.5) / 0.5


def to_patches(image_3HW: Tensor, patch: int) -> Tensor:
    """[V, C] patches, rows first; the numbers of a patch run (dy, dx, channel), channel fastest, as those of a latent token."""
    return to_tokens(image_3HW[None], patch)[0]


def table_rows(grid_hw: tuple[int, int], side: int) -> Tensor:
    """[V] int64 rows of a position table of this side, row-major: row * side + column, whatever the picture's width."""
    rows, columns = grid_hw
    assert max(rows, columns) <= side, f"{rows} x {columns} patches do not fit a table of side {side}"
    return (torch.arange(rows)[:, None] * side + torch.arange(columns)).flatten()
