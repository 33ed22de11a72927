"""Cutting objects out and naming their colours, on hand-made masks whose answer is known."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from reward_server.detectors.colors import COLORS, ColorNamer, centre_square, class_directions, cut_out
from reward_server.detectors.instances import box_of

PAINTS = {
    "red": (220, 30, 30),
    "orange": (255, 140, 0),
    "yellow": (250, 240, 40),
    "green": (20, 160, 50),
    "blue": (30, 60, 220),
    "purple": (120, 20, 140),
    "pink": (255, 160, 200),
    "brown": (110, 70, 20),
    "black": (10, 10, 10),
    "white": (250, 250, 250),
}


class FakeMeanColorEmbedder:
    """Stands in for CLIP: a text lies where its colour word's paint does, a picture where the mean of what is not grey does."""

    def __init__(self) -> None:
        self.asked: list[Sequence[str]] = []

    def texts(self, texts: Sequence[str]) -> Tensor:
        self.asked.append(texts)
        words = [next(word for word in text.replace("-colored", "").split() if word in PAINTS) for text in texts]
        return torch.stack([self._place(torch.tensor(PAINTS[word])) for word in words])

    def picture(self, picture_HW3: Tensor) -> Tensor:
        return self._place(picture_HW3[(picture_HW3 != 0x99).any(-1)].float().mean(0))

    def _place(self, color_3: Tensor) -> Tensor:
        return normalize(torch.cat([color_3 - 128, torch.tensor([40.0])]), dim=0)


def disc(color: str, *, background: str) -> tuple[Tensor, Tensor]:
    """A disc of 9 pixels in a picture 20 x 30, and its mask."""
    y, x = torch.meshgrid(torch.arange(20), torch.arange(30), indexing="ij")
    mask_HW = (y - 8) ** 2 + (x - 21) ** 2 <= 16
    image_HW3 = torch.where(mask_HW[..., None], torch.tensor(PAINTS[color]), torch.tensor(PAINTS[background])).to(torch.uint8)
    return image_HW3, mask_HW


def test_an_object_is_cut_out_on_grey() -> None:
    image_HW3, mask_HW = disc("red", background="blue")
    crop_HW3 = cut_out(image_HW3, mask_HW, box_of(mask_HW))
    assert crop_HW3.shape == (9, 9, 3)
    assert crop_HW3.dtype == torch.uint8
    assert crop_HW3[4, 4].tolist() == list(PAINTS["red"])
    assert crop_HW3[0, 0].tolist() == [0x99] * 3
    pillow = Image.composite(
        Image.fromarray(image_HW3.numpy()), Image.new("RGB", (30, 20), "#999"), Image.fromarray(mask_HW.numpy())
    ).crop(box_of(mask_HW))
    assert crop_HW3.tolist() == np.asarray(pillow).tolist()


@pytest.mark.parametrize("color", COLORS)
def test_every_colour_is_named_whatever_surrounds_it(color: str) -> None:
    namer = ColorNamer(FakeMeanColorEmbedder())
    for background in ("black", "green"):
        image_HW3, mask_HW = disc(color, background=background)
        assert namer.name(image_HW3, mask_HW, box_of(mask_HW), "kite") == color


def test_the_phrases_are_genevals_and_asked_once_a_class() -> None:
    embedder = FakeMeanColorEmbedder()
    namer = ColorNamer(embedder)
    image_HW3, mask_HW = disc("red", background="blue")
    for label in ("computer mouse", "kite", "computer mouse"):
        namer.name(image_HW3, mask_HW, box_of(mask_HW), label)
    mice, kites = embedder.asked
    assert len(mice) == 30
    assert list(mice[:3]) == [
        "a photo of a red computer mouse",
        "a photo of a red-colored computer mouse",
        "a photo of a red object",
    ]
    assert list(mice[-3:-1]) == ["a photo of a white computer mouse", "a photo of a white-colored computer mouse"]
    assert kites[0] == "a photo of a red kite"


def test_a_class_lies_in_the_mean_direction_of_its_phrases() -> None:
    east, north, up = torch.eye(3)
    directions_KD = class_directions(torch.stack([east, north, up, up]), 2)
    torch.testing.assert_close(directions_KD, torch.stack([(east + north) / math.sqrt(2), up]))


def test_scores_that_are_not_finite_name_no_colour() -> None:
    class FakeBrokenEmbedder(FakeMeanColorEmbedder):
        def picture(self, picture_HW3: Tensor) -> Tensor:
            return torch.full((4,), math.nan)

    image_HW3, mask_HW = disc("red", background="blue")
    with pytest.raises(ValueError, match="the colours of a kite scored"):
        ColorNamer(FakeBrokenEmbedder()).name(image_HW3, mask_HW, box_of(mask_HW), "kite")


@pytest.mark.parametrize(("height", "width"), [(16, 16), (5, 5), (40, 23), (9, 61), (1, 7), (50, 3), (37, 37)])
def test_the_centre_square_is_the_centre_of_the_scaled_picture(height: int, width: int) -> None:
    picture_HW3 = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    scaled = [int(16 * side / min(height, width)) for side in (height, width)]
    wide = Image.fromarray(picture_HW3.numpy()).resize((scaled[1], height), Image.Resampling.BICUBIC)
    whole = wide.resize((scaled[1], scaled[0]), Image.Resampling.BICUBIC)
    top, left = (round((side - 16) / 2.0) for side in scaled)
    expected = np.asarray(whole)[top : top + 16, left : left + 16].astype(int)
    assert np.abs(centre_square(picture_HW3, 16).numpy().astype(int) - expected).max() <= 1


def test_a_very_long_crop_stays_small() -> None:
    assert centre_square(torch.zeros(1, 200_000, 3, dtype=torch.uint8), 224).shape == (224, 224, 3)
