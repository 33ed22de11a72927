"""What is decoded, and what is refused before or instead of it. Expected pixels are laid out by hand."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unigrpo.pictures import decode_picture, encode_png

RED, HALF_BLUE = (255, 0, 0), (0, 0, 255, 128)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *, before: bytes = b"") -> bytes:
    """A PNG written by hand. colour: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def pixel(content: bytes) -> list[int]:
    image: list[int] = decode_picture(content)[0, 0].tolist()
    return image


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (24, 24)])
def test_a_png_comes_back_as_it_was(height: int, width: int) -> None:
    image: Tensor = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.equal(decode_picture(encode_png(image)), image)
    assert encode_png(image) == encode_png(image.clone())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png(1, 1, 8, 2, b"\0\x01\x02\x03"), [1, 2, 3]),
        (png(1, 1, 8, 0, b"\0\x07"), [7, 7, 7]),
        (png(1, 1, 1, 0, b"\0\x80"), [255, 255, 255]),
        (png(1, 1, 8, 3, b"\0\x01", before=chunk(b"PLTE", bytes([9, 9, 9, 4, 5, 6]))), [4, 5, 6]),
        (png(1, 1, 8, 6, b"\0" + bytes(HALF_BLUE)), [127, 127, 255]),  # 255 - 128 of white shine through
        (png(1, 1, 8, 6, b"\0\x0a\x14\x1e\x00"), [255, 255, 255]),
        (png(1, 1, 8, 4, b"\0\x00\xff"), [0, 0, 0]),
        (saved(Image.new("RGB", (4, 4), RED), "WEBP", lossless=True), [255, 0, 0]),
    ],
)
def test_every_kind_of_eight_bits_becomes_rgb_on_white(content: bytes, expected: list[int]) -> None:
    assert pixel(content) == expected


def test_exif_rotation_is_applied() -> None:
    picture = Image.fromarray(np.array([[[1, 1, 1], [2, 2, 2]]], dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    assert decode_picture(saved(picture, "PNG", exif=exif))[..., 0].tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (png(1, 1, 16, 2, bytes(7)), "more than 8 bits"),
        (png(1, 1, 16, 0, bytes(3)), "more than 8 bits"),
        (png(1, 1, 16, 4, bytes(5)), "more than 8 bits"),
        (png(1, 1, 16, 6, bytes(9)), "more than 8 bits"),
        (png(5000, 5000, 8, 2, b""), "5000 x 5000 pixels; 16777216 are allowed"),
        (png(12_000, 10_000, 8, 2, b""), "12000 x 10000 pixels"),
        (png(2**31 - 1, 2**31 - 1, 8, 2, b""), "no whole picture"),
        (png(0, 1, 8, 2, b""), "no picture that can be read"),
        (png(1, 1, 8, 2, bytes(4), before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 27)))), "no whole picture"),
        (png(1, 1, 8, 2, bytes(4), before=chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(1 << 27)))), "no whole picture"),
        (encode_png(torch.zeros(8, 8, 3, dtype=torch.uint8))[:40], "no picture that can be read"),
        (saved(Image.new("RGB", (4, 4)), "GIF"), "send PNG or WEBP"),
        (saved(Image.new("RGB", (4, 4)), "JPEG"), "send PNG or WEBP"),
        (saved(Image.new("CMYK", (4, 4)), "TIFF"), "send PNG or WEBP"),
        (saved(Image.new("RGB", (4, 4)), "BMP"), "send PNG or WEBP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "send PNG or WEBP"),
        (b"", "^0 bytes are no picture that can be read; send PNG or WEBP$"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_modest_picture_is_refused_and_named(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode_picture(content)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_several_frames_are_refused(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), (0, 0, number)) for number in (0, 250)]
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="several frames"):
        decode_picture(content)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_hostile_colour_profile_decodes_or_is_refused(kind: str) -> None:
    content = saved(Image.new("RGB", (4, 4), RED), kind, icc_profile=bytes(1 << 20), lossless=True)
    assert pixel(content) == [255, 0, 0]


def test_data_beyond_the_last_row_is_not_inflated() -> None:
    bomb = png(1, 1, 8, 2, bytes(1 << 27))
    assert pixel(bomb) == [0, 0, 0]


def test_other_limits_and_formats_are_the_callers() -> None:
    square = encode_png(torch.zeros(4, 4, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="4 x 4 pixels; 15 are allowed"):
        decode_picture(square, max_pixels=15)
    with pytest.raises(ValueError, match="send WEBP"):
        decode_picture(square, formats=["WEBP"])
    assert decode_picture(saved(Image.new("RGB", (4, 4)), "JPEG"), formats=["JPEG"]).shape == (4, 4, 3)


def test_damaged_files_raise_only_what_is_promised() -> None:
    decode: Callable[[bytes], Tensor] = decode_picture
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    originals = [saved(noise.convert(mode), kind) for mode in ("RGB", "RGBA", "L", "P") for kind in ("PNG", "WEBP")]
    refused = 0
    for turn in range(1500):
        damaged = bytearray(originals[turn % len(originals)])
        for place in generator.integers(12, len(damaged), 3):
            damaged[place] = generator.integers(256)
        try:
            assert decode(bytes(damaged)).dtype == torch.uint8
        except ValueError:
            refused += 1
    assert refused > 500


@pytest.mark.parametrize(
    "odd",
    [
        chunk(b"tEXt", b"xmp\0x"),
        chunk(b"zTXt", b"exif\0\0" + zlib.compress(b"x")),
        chunk(b"tEXt", b"transparency\0x"),
    ],
)
def test_chunks_that_trip_pillows_readers_are_one_message(odd: bytes) -> None:
    """Pillow raises TypeError, AttributeError or struct.error for them."""
    with pytest.raises(ValueError, match="are no whole picture"):
        decode_picture(png(1, 1, 8, 2, b"\0\1\2\3", before=odd))
