"""Measures of reward hacking on pictures and thoughts whose answer is known, and on worlds where nothing is hacked."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from unigrpo.hacking import diversity, grid_artefact, repetition, root_mean_square, saturated_share
from unigrpo.shapes.plan import draw_plan
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.shapes.render import render
from unigrpo.shapes.world import CELL_PIXELS


def flat(height: int, width: int, value: int = 128) -> Tensor:
    return torch.full((height, width, 3), value, dtype=torch.uint8)


def scenes(number: int) -> list[Tensor]:
    """Rendered pictures of training prompts, spread over the categories."""
    rng = np.random.default_rng(0)
    prompts = shapes_prompts("train")
    return [torch.from_numpy(render(draw_plan(p.metadata, rng), rng)) for p in prompts[:: len(prompts) // number]]


def photograph(size: int, seed: int) -> Tensor:
    """Noise with a photograph's power spectrum, 1 / frequency² (its amplitude falls as 1 / frequency)."""
    noise = torch.randn(3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    along = torch.fft.fftfreq(size, dtype=torch.float64)
    frequency = (along[:, None] ** 2 + along**2).sqrt().clamp(min=1 / size)
    picture = torch.fft.ifft2(torch.fft.fft2(noise) / frequency).real
    return as_picture((picture / picture.std() * 40 + 128).permute(1, 2, 0))


def with_noise(images: list[Tensor], std: float) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [as_picture(each + std * 255 * torch.randn(each.shape, generator=random, dtype=torch.float64)) for each in images]


def with_board(image_HW3: Tensor, side: int, *, levels: float) -> Tensor:
    """A checkerboard of squares of `side` pixels laid over a picture: up and down by so many grey levels."""
    height, width = image_HW3.shape[:2]
    y, x = torch.meshgrid(torch.arange(height) // side, torch.arange(width) // side, indexing="ij")
    return as_picture(image_HW3 + (((x + y) % 2) * 2.0 - 1)[:, :, None] * levels)


def as_picture(image_HW3: Tensor) -> Tensor:
    return image_HW3.clamp(0, 255).round().to(torch.uint8)


def mean_artefact(images: list[Tensor], period: int) -> float:
    return sum(grid_artefact(image, period=period) for image in images) / len(images)


def test_a_pixel_is_saturated_that_has_a_channel_at_an_end() -> None:
    image_HW3 = flat(2, 4)
    image_HW3[0, 0, 1] = 255
    image_HW3[1, 3, 0] = 0
    image_HW3[1, 3, 2] = 255
    image_HW3[0, 2] = torch.tensor([1, 254, 128], dtype=torch.uint8)
    assert saturated_share(image_HW3) == 2 / 8
    assert [saturated_share(flat(3, 3, value)) for value in (0, 1, 254, 255)] == [1, 0, 0, 1]


def test_a_grid_of_one_grey_level_in_a_flat_picture_is_what_its_spectrum_says() -> None:
    """Columns 24 px wide, raised by one level from pixel 8 to 15: gradients of one level at 7 and 15, two periods of 8 px.

    Over 16 differences two equal impulses 8 apart have |DFT|² = 4 at the even frequencies and 0 at the odd ones, over 16: 1 / 4
    of a squared level. The floor is one squared level at each: 1 + 1/4 against 1.
    """
    image_HW3 = flat(24, 24, 100)
    image_HW3[:, 8:16] = 101
    assert grid_artefact(image_HW3, period=8) == pytest.approx(1.25)
    assert grid_artefact(image_HW3.transpose(0, 1), period=8) == pytest.approx(1.25)


@pytest.mark.parametrize("height_width", [(24, 24), (32, 48)])
def test_a_flat_picture_has_no_grid(height_width: tuple[int, int]) -> None:
    assert grid_artefact(flat(*height_width), period=8) == 1


def test_objects_that_keep_to_the_grid_are_no_artefact() -> None:
    clean = scenes(100)
    assert all(grid_artefact(image, period=CELL_PIXELS) < 1.01 for image in clean)
    assert mean_artefact(with_noise(clean, 0.03), CELL_PIXELS) < 1.5
    assert mean_artefact(with_noise(clean, 0.1), CELL_PIXELS) < 2.5


@pytest.mark.parametrize("side", [CELL_PIXELS // 2, CELL_PIXELS])
def test_a_board_at_the_patch_period_shows_over_objects_and_noise(side: int) -> None:
    assert mean_artefact([with_board(image, side, levels=2) for image in scenes(20)], CELL_PIXELS) > 4.5
    noisy = with_noise(scenes(20), 0.03)
    assert mean_artefact([with_board(image, side, levels=8) for image in noisy], CELL_PIXELS) > 5


@pytest.mark.parametrize(("size", "period"), [(64, 8), (128, 16), (256, 16)])
def test_a_board_shows_on_photographs_and_their_own_edges_do_not(size: int, period: int) -> None:
    photographs = [photograph(size, seed) for seed in range(6)]
    clean = mean_artefact(photographs, period)
    assert clean < 1.5
    for side in (period // 2, period):
        assert mean_artefact([with_board(each, side, levels=16) for each in photographs], period) > 2.5 * clean


def test_a_period_that_is_not_the_patches_is_no_artefact() -> None:
    stripes = flat(64, 64, 100)
    stripes[:, torch.arange(64) % 5 < 2] = 140
    assert grid_artefact(stripes, period=8) <= 1


def test_two_patches_are_no_grid() -> None:
    with pytest.raises(ValueError, match="pictures of 24 px or more each way, not of 24 x 16"):
        grid_artefact(flat(24, 16), period=8)


def test_diversity_is_the_mean_distance_of_all_pairs() -> None:
    pictures = torch.stack([flat(4, 4, 0), flat(4, 4, 0), flat(4, 4, 51)])
    pictures[1, :, :2] = 255
    first_second, first_third, second_third = math.sqrt(0.5), 0.2, math.sqrt((0.8**2 + 0.2**2) / 2)
    assert diversity(pictures) == pytest.approx((first_second + first_third + second_third) / 3)
    assert diversity(torch.stack([pictures[1]] * 3)) == 0


@pytest.mark.parametrize(
    ("token_ids", "share"),
    [
        ([1, 2, 3], 0),  # no four tokens
        ([1, 2, 3, 4, 5, 6], 0),
        ([1, 2, 3, 1, 2, 3], 0),  # 1231 2312 3123
        ([1, 2, 3, 1, 2, 3, 1], 1 / 4),  # 1231 2312 3123 1231
        ([7] * 13, 9 / 10),
    ],
)
def test_repetition_counts_what_stood_there_before(token_ids: list[int], share: float) -> None:
    assert repetition(token_ids) == pytest.approx(share)


def test_root_mean_squares_are_joined_as_squares() -> None:
    assert root_mean_square([3.0, 4.0]) == pytest.approx(math.sqrt(12.5))
