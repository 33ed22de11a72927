"""Pictures to and from bytes, with limits that hold before anything is decoded.

Transparent pixels are laid over white, palettes and grey become RGB, EXIF rotation is applied; what has several frames, more
than 8 bits a channel or another format is refused.
"""

from collections.abc import Collection
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

FORMATS = ("PNG", "WEBP")
"""What is read unless more is asked for: the formats of the reward protocol."""
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
"""Pillow's modes of 8 bits or less a channel that become RGB without loss of meaning."""
MAX_PIXELS = 4096 * 4096


def decode_picture(content: bytes, *, max_pixels: int = MAX_PIXELS, formats: Collection[str] = FORMATS) -> Tensor:
    """[H, W, 3] uint8 from an encoded picture.

    Raises ValueError, saying what was given and what is allowed, for bytes that are no whole picture of one of `formats`, more
    than `max_pixels` pixels (known from the header, before decoding), several frames, or another mode than MODES. A PNG whose
    compressed rows end early, but properly, passes: what is missing is black, as other viewers show it too.
    """
    try:
        with Image.open(BytesIO(content), formats=list(formats)) as picture:
            if (fault := header_fault(picture, max_pixels)) is None:
                picture.load()
                return torch.from_numpy(np.array(_on_white(ImageOps.exif_transpose(picture))))
    except UnidentifiedImageError:  # its own message quotes the address of an object
        fault = f"{len(content)} bytes are no picture that can be read; send {' or '.join(formats)}"
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers of damaged files raise TypeError, IndexError, struct.error and more
        fault = f"{len(content)} bytes are no whole picture ({type(error).__name__}: {error}); send {' or '.join(formats)}"
    raise ValueError(fault)


def encode_png(image_HW3: Tensor) -> bytes:
    """PNG bytes of a [H, W, 3] uint8 picture; the same picture gives the same bytes."""
    buffer = BytesIO()
    # Level 1 takes about half the time of the usual 6 for a tenth more bytes, and what waits for them waits for the time.
    Image.fromarray(image_HW3.contiguous().numpy()).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def header_fault(picture: ImageFile.ImageFile, max_pixels: int) -> str | None:
    """Why an opened picture is not decoded."""
    if picture.width * picture.height > max_pixels:
        return f"the picture has {picture.width} x {picture.height} pixels; {max_pixels} are allowed"
    if getattr(picture, "n_frames", 1) != 1:
        return "the picture has several frames; send one"
    if picture.mode not in MODES or _is_deep(picture):
        return f"the picture has mode {picture.mode} or more than 8 bits a channel; send one of {', '.join(sorted(MODES))}"
    return None


def _is_deep(picture: ImageFile.ImageFile) -> bool:
    """Whether Pillow would cut 16 bits a channel to 8, which it does to coloured PNGs without a word."""
    return any(";16" in str(tile.args) for tile in picture.tile)


def _on_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")
