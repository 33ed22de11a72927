"""Sizes, pixels and patches of pictures on their way into the model, and which files are read at all."""

import json
import random
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from tests.unigrpo.models.fakes import CONFIG
from tests.unigrpo.test_pictures import chunk, png, saved
from unigrpo.models.bagel.config import AutoEncoderConfig, BagelConfig, VisionConfig
from unigrpo.models.bagel.preprocess import (
    MAX_PIXELS,
    MAX_SOURCE_BYTES,
    ResizeRule,
    latent_rule,
    normalised,
    read_source,
    resized,
    table_rows,
    to_patches,
    vision_rule,
)

LATENTS = ResizeRule(1024, 512, 16, MAX_PIXELS)
PATCHES = ResizeRule(980, 224, 14, MAX_PIXELS)


def seeing(side: int, patch: int) -> BagelConfig:
    """The released model's latents, a vision position table of this side, patches of so many pixels."""
    vision = VisionConfig(
        hidden_size=4,
        intermediate_size=4,
        num_layers=1,
        num_heads=1,
        patch_size=patch,
        image_size=patch * side,
        num_channels=3,
        layer_norm_eps=1e-6,
        max_patches_per_side=side,
    )
    return replace(CONFIG, max_latent_size=64, vae=AutoEncoderConfig(), vision=vision)


def test_the_released_rules_follow_from_the_released_sizes() -> None:
    assert latent_rule(seeing(70, 14)) == LATENTS
    assert vision_rule(seeing(70, 14)) == PATCHES


def test_the_rules_of_other_sizes() -> None:
    assert latent_rule(CONFIG) == ResizeRule(40, 20, 8, MAX_PIXELS)  # 4 pixels a latent, 2 latents a token, 5 tokens a side
    assert vision_rule(seeing(10, 14)) == ResizeRule(140, 140, 14, MAX_PIXELS)
    assert vision_rule(seeing(40, 6)) == ResizeRule(240, 96, 6, MAX_PIXELS)


def test_every_size_of_the_references_tables(golden_folder: Path) -> None:
    tables = json.loads((golden_folder / "cases.json").read_text())["resize_table"]
    for name, table in tables.items():
        longest, shortest, stride = map(int, name.split("_")[-3:])
        rule = ResizeRule(longest, shortest, stride, MAX_PIXELS)
        wrong = [row for row in table if rule.size(*row["in_wh"][::-1]) != tuple(row["out_wh"][::-1])]
        assert (name, wrong) == (name, [])
    assert sum(map(len, tables.values())) >= 4


@pytest.mark.parametrize(
    ("rule", "given", "expected"),
    [
        (LATENTS, (1, 1), (512, 512)),
        (PATCHES, (1, 1), (224, 224)),
        (LATENTS, (4096, 4096), (1024, 1024)),
        (PATCHES, (4096, 4096), (980, 980)),
        (LATENTS, (1, 16_000_000), (16, 1024)),
        (LATENTS, (10_000, 1), (1024, 16)),
        (PATCHES, (1, 16_000_000), (14, 980)),
        (PATCHES, (10_000, 1), (980, 14)),
        # x 2.56: 512 x 3840, which is 1.0884 times the area allowed: 470 -> 464, 3528 -> 3520; x 1024/3520: 135 -> 128.
        # With the root of the area's ratio it would be 144.
        (LATENTS, (200, 1500), (128, 1024)),
        # Two and more times the area of the cap: 2048 x 1806336/2048^2 = 882 -> 880.
        (ResizeRule(4096, 512, 16, MAX_PIXELS), (2048, 2048), (880, 880)),
        # Ties go to the even number: 2.5 strides to 2, 3.5 to 4; half of 37 pixels is 18, 9 strides.
        (ResizeRule(1024, 16, 16, MAX_PIXELS), (40, 56), (32, 64)),
        (ResizeRule(64, 2, 2, MAX_PIXELS), (37, 128), (18, 64)),
        # Whole pixels come before whole strides: half of 53 is 26, 6.5 strides, 6; 26.5 at once would be 6.6 strides, 7.
        (ResizeRule(64, 4, 4, MAX_PIXELS), (53, 128), (24, 64)),
    ],
)
def test_sizes_worked_out_by_hand(rule: ResizeRule, given: tuple[int, int], expected: tuple[int, int]) -> None:
    assert rule.size(*given) == expected
    assert rule.size(*given[::-1]) == expected[::-1]


def test_the_tower_gets_the_picture_that_the_latents_were_made_of() -> None:
    between = LATENTS.size(200, 300)
    assert between == (512, 768)
    assert PATCHES.size(*between) == (518, 770)  # 36.6 and 54.9 patches


@pytest.mark.parametrize("rule", [LATENTS, PATCHES, ResizeRule(40, 20, 8, MAX_PIXELS), ResizeRule(8, 4, 8, MAX_PIXELS)])
def test_every_size_has_a_place_in_the_tables(rule: ResizeRule) -> None:
    draw = random.Random(0)
    for _ in range(5000):
        height, width = (int(2 ** draw.uniform(0, 13)) for _ in range(2))
        for side in rule.size(height, width):
            assert side % rule.stride == 0, (height, width)
            assert rule.stride <= side <= rule.longest, (height, width)


@pytest.mark.parametrize("given", [(30, 41), (200, 90), (64, 64)])
def test_resizing_is_bicubic_and_averages_what_it_shrinks(given: tuple[int, int]) -> None:
    """PyTorch's own implementation, run along the rows and then along the columns, as Pillow does, with bytes in between."""
    rule = ResizeRule(64, 48, 16, MAX_PIXELS)
    image = torch.randint(0, 256, (*given, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    got = resized(image, rule)
    height, width = rule.size(*given)
    assert (got.dtype, got.shape) == (torch.uint8, (height, width, 3))
    planes = image.permute(2, 0, 1)[None].double()
    for size in ((given[0], width), (height, width)):
        planes = F.interpolate(planes, size=size, mode="bicubic", antialias=True).round().clamp(0, 255)
    assert (got.double() - planes[0].permute(1, 2, 0)).abs().max() <= 1


def test_a_picture_that_fits_is_left_as_it_is() -> None:
    image = torch.randint(0, 256, (32, 48, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.equal(resized(image, ResizeRule(64, 16, 16, MAX_PIXELS)), image)
    turned = image.transpose(0, 1)
    assert torch.equal(resized(turned, ResizeRule(64, 16, 16, MAX_PIXELS)), turned)


def test_bytes_become_numbers_around_zero() -> None:
    image_HW3 = torch.tensor([[[0, 51, 255], [102, 153, 204]]], dtype=torch.uint8)
    image_3HW = normalised(image_HW3)
    assert image_3HW.dtype == torch.float32
    expected = torch.tensor([[[-1.0, -0.2]], [[-0.6, 0.2]], [[1.0, 0.6]]])
    torch.testing.assert_close(image_3HW, expected, rtol=0.0, atol=1e-7)


def test_a_patch_runs_down_across_then_through_the_channels() -> None:
    # Each number says where it stands: channel, row, column.
    image_3HW = torch.arange(3)[:, None, None] * 100 + torch.arange(4)[:, None] * 10 + torch.arange(6)
    patches_VC = to_patches(image_3HW, 2)
    assert patches_VC.shape == (6, 12)
    assert patches_VC[0].tolist() == [0, 100, 200, 1, 101, 201, 10, 110, 210, 11, 111, 211]
    assert patches_VC[5].tolist() == [24, 124, 224, 25, 125, 225, 34, 134, 234, 35, 135, 235]
    assert patches_VC[:, 0].tolist() == [0, 2, 4, 20, 22, 24]


def test_rows_of_a_table_step_by_its_side() -> None:
    assert table_rows((2, 3), 70).tolist() == [0, 1, 2, 70, 71, 72]
    assert table_rows((1, 1), 1).tolist() == [0]
    with pytest.raises(AssertionError, match="1 x 6 patches do not fit a table of side 5"):
        table_rows((1, 6), 5)


WHITE = [255, 255, 255]
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def written(folder: Path, content: bytes) -> Path:
    path = folder / "source"
    path.write_bytes(content)
    return path


def palette() -> Image.Image:
    picture = Image.new("P", (1, 1), 1)
    picture.putpalette([9, 9, 9, 4, 5, 6])
    return picture


@pytest.mark.parametrize(
    ("picture", "kind", "options", "expected"),
    [
        (Image.new("RGB", (1, 1), (1, 2, 3)), "PNG", {}, [1, 2, 3]),
        (Image.new("RGB", (1, 1), (1, 2, 3)), "WEBP", {"lossless": True}, [1, 2, 3]),
        (Image.new("RGB", (1, 1), (7, 7, 7)), "JPEG", {}, [7, 7, 7]),
        (Image.new("L", (1, 1), 200), "PNG", {}, [200, 200, 200]),
        (Image.new("L", (1, 1), 200), "JPEG", {}, [200, 200, 200]),
        (Image.new("1", (1, 1), 1), "PNG", {}, WHITE),
        (palette(), "PNG", {}, [4, 5, 6]),
        (palette(), "PNG", {"transparency": 1}, WHITE),
        (Image.new("LA", (1, 1), (0, 255)), "PNG", {}, [0, 0, 0]),
        (Image.new("RGBA", (1, 1), (0, 0, 255, 128)), "PNG", {}, [127, 127, 255]),  # 255 - 128 of white shine through
        (Image.new("RGBA", (1, 1), (0, 0, 0, 0)), "WEBP", {"lossless": True, "exact": True}, WHITE),
    ],
)
def test_every_kind_of_picture_becomes_rgb(
    tmp_path: Path, picture: Image.Image, kind: str, options: dict[str, object], expected: list[int]
) -> None:
    assert read_source(written(tmp_path, saved(picture, kind, **options))).tolist() == [[expected]]


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100})])
def test_a_picture_that_lay_on_its_side_stands_up(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: the left half becomes the upper
    halves = np.zeros((16, 32, 3), dtype=np.uint8)
    halves[:, 16:] = 255
    image = read_source(written(tmp_path, saved(Image.fromarray(halves), kind, exif=exif, **options)))
    assert image.shape == (32, 16, 3)
    assert int(image[:16].max()) < 8
    assert int(image[16:].min()) > 247


def frames(kind: str) -> bytes:
    first, second = Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), (0, 0, 250))
    return saved(first, kind, save_all=True, append_images=[second])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes are no picture that can be read; send PNG or JPEG or WEBP"),
        (b"a letter", "no picture that can be read"),
        (saved(Image.new("RGB", (4, 4)), "GIF"), "no picture that can be read"),
        (saved(NOISE, "PNG")[:-400], "no whole picture"),
        (saved(NOISE, "JPEG")[:-400], "no whole picture"),
        (saved(NOISE, "WEBP")[:-400], "no whole picture"),
        (png(5000, 5000, 8, 2, b""), "5000 x 5000 pixels; 16777216 are allowed"),
        (png(60_000, 60_000, 8, 2, b""), "no whole picture"),
        (png(1, 1, 8, 2, bytes(4), before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 27)))), "no whole picture"),
        (png(1, 1, 16, 2, bytes(7)), "more than 8 bits"),
        (png(1, 1, 16, 0, bytes(3)), "more than 8 bits"),
        (saved(Image.new("CMYK", (4, 4)), "JPEG"), "mode CMYK"),
        (frames("PNG"), "several frames"),
        (frames("WEBP"), "several frames"),
        (frames("MPO"), "several frames"),
    ],
)
def test_a_bad_picture_is_one_error_that_names_it(tmp_path: Path, content: bytes, said: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=f"^{path}: .*{said}"):
        read_source(path)


def test_what_is_no_picture_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.png", tmp_path):
        with pytest.raises(ValueError, match=f"^{path}: there is no such file; give a PNG, JPEG or WEBP picture"):
            read_source(path)
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(MAX_SOURCE_BYTES + 1)
    with pytest.raises(ValueError, match=f"^{large}: the file has 134217729 bytes; 134217728 are allowed"):
        read_source(large)
