"""Labelled pictures: labels are the detector's, faults are many kinds, and everything belongs to the seed."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.reward_models.shapes import ShapesReaderConfig, ShapesRewardModel
from unigrpo.reward_models.shapes_climbing import climbed_pictures
from unigrpo.reward_models.shapes_pictures import (
    EMPTY,
    NO_OBJECT,
    OBJECT,
    UNRECOGNISED,
    Labelled,
    cell_labels,
    labelled,
    labelled_pictures,
    rendered,
    to_uint8_HW3,
)
from unigrpo.shapes.autoencoder_training import SMALL_AUTOENCODER
from unigrpo.shapes.world import CELLS, COLORS, SHAPES, Item, Scene

SCENE = Scene((Item("red", "circle", "A1"), Item("white", "cross", "C2"), Item("blue", "square", "B3")))


@pytest.fixture(scope="module")
def autoencoder() -> Iterator[AutoEncoder]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield AutoEncoder(SMALL_AUTOENCODER).requires_grad_(False)


def picture() -> Tensor:
    return rendered([SCENE], np.random.default_rng(0))


def test_labels_of_a_rendered_scene_are_its_items() -> None:
    labels = labelled(picture())
    for index, cell in enumerate(CELLS):
        items = [item for item in SCENE.items if item.cell == cell]
        if items:
            expected = (OBJECT, COLORS.index(items[0].color), SHAPES.index(items[0].shape))
        else:
            expected = (EMPTY, NO_OBJECT, NO_OBJECT)
        found = [int(each_SK[0, index]) for each_SK in (labels.kind_SK, labels.color_SK, labels.shape_SK)]
        assert found == list(expected)


def test_what_the_detector_does_not_recognise_is_found_in_its_cell() -> None:
    image = picture()
    image[0, :, :4, :8] = image[0, :, 20:21, :1]
    half, whole = labelled(image), labelled(picture())
    assert half.kind_SK[0, 0] == UNRECOGNISED
    assert half.color_SK[0, 0] == half.shape_SK[0, 0] == NO_OBJECT
    assert torch.equal(half.kind_SK[:, 1:], whole.kind_SK[:, 1:])


def same(one: Labelled, other: Labelled) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in Labelled.__slots__)


def test_pictures_belong_to_the_seed_and_hold_every_kind_of_cell(autoencoder: AutoEncoder) -> None:
    told: list[int] = []
    pictures = labelled_pictures(autoencoder, seed=3, count=70, report=told.append)
    assert told == [64, 70]
    assert same(pictures, labelled_pictures(autoencoder, seed=3, count=70))
    assert not torch.equal(pictures.images_S3HW, labelled_pictures(autoencoder, seed=4, count=70).images_S3HW)
    assert pictures.images_S3HW.shape == (70, 3, 24, 24)
    assert pictures.images_S3HW.min() >= 0
    assert pictures.images_S3HW.max() <= 1
    assert set(pictures.kind_SK.unique().tolist()) == {EMPTY, OBJECT, UNRECOGNISED}
    assert np.array_equal(cell_labels(to_uint8_HW3(pictures.images_S3HW[7]))[:, 0], pictures.kind_SK[7])


def test_climbs_make_what_they_want_likelier_and_are_labelled_by_what_they_show(autoencoder: AutoEncoder) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ShapesRewardModel(ShapesReaderConfig())
    start = labelled(picture())  # alone in its pool, every climb starts from it and wants what it shows
    climbed = climbed_pictures(model, start, autoencoder, seed=1, pixels=3, latents=2)
    assert same(climbed, climbed_pictures(model, start, autoencoder, seed=1, pixels=3, latents=2))
    assert same(climbed, labelled(climbed.images_S3HW))
    assert climbed.images_S3HW.shape == (5, 3, 24, 24)

    def likelihood(images_S3HW: Tensor) -> Tensor:
        kind_SK3 = model.read(images_S3HW).kind_SK3
        return kind_SK3.gather(-1, start.kind_SK.expand(len(images_S3HW), -1)[..., None]).sum((1, 2))

    reconstructed = (autoencoder.decode(autoencoder.encode(2 * start.images_S3HW - 1, None)) / 2 + 0.5).clamp(0, 1)
    assert (likelihood(climbed.images_S3HW[:3]) > likelihood(start.images_S3HW) + 0.05).all()
    assert (likelihood(climbed.images_S3HW[3:]) > likelihood(reconstructed)).all()
    assert all(parameter.grad is None for parameter in model.parameters())
