"""Labelled pictures for the reader of the shapes world: random scenes, sound ones and spoilt in the ways a painter spoils them.

A painter's pictures come out of the autoencoder, from latents that are a little off, between two scenes, or half denoised; so
do many of these. Others are blurred, faded, noisy, of another tint, or have part of an object painted over. What a picture
shows is never taken from the scene that it began as: every label is what detect.py sees in it.

Shapes: S pictures, K cells in reading order, Z latent channels, hw latent pixels, HW pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.seeds import derive_seed
from unigrpo.shapes.autoencoder_training import random_scene
from unigrpo.shapes.detect import detect
from unigrpo.shapes.render import render
from unigrpo.shapes.world import BACKGROUND, CELL_PIXELS, CELLS, COLORS, GRID, SHAPES, Scene, cell_row_column

NO_OBJECT = -100
"""Colour and shape of a cell without a recognised object: the index that torch's cross-entropy leaves out."""
EMPTY, OBJECT, UNRECOGNISED = range(3)
"""Places in shapes.KINDS."""

PIECE = 64
"""Pictures made at once."""
AUTOENCODED = 0.6
"""Share of pictures that pass through the autoencoder."""
FAULTY = 0.2
"""Share of pictures that each of the other faults is applied to."""
MAX_LATENT_NOISE = 0.8
"""Largest standard deviation added to latents, which are of unit scale."""
MIXED_CELLS = 0.25
"""Share of cells, in half of the autoencoded pictures, whose latent lies between two scenes."""
FADE_RANGE = (0.3, 1.0)
TINT_RANGE = (0.6, 1.2)
MAX_NOISE = 0.12
"""Largest standard deviation of pixel noise, in [0, 1] units."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Pictures and what detect.py sees in their cells."""

    images_S3HW: Tensor
    """Float32 in [0, 1], multiples of 1/255."""
    kind_SK: Tensor
    """Int64: EMPTY, OBJECT or UNRECOGNISED."""
    color_SK: Tensor
    """Int64 index into COLORS, or NO_OBJECT."""
    shape_SK: Tensor
    """Int64 index into SHAPES, or NO_OBJECT."""

    def select(self, index_N: Tensor) -> "Labelled":
        """The pictures at these places."""
        return Labelled(self.images_S3HW[index_N], self.kind_SK[index_N], self.color_SK[index_N], self.shape_SK[index_N])


def labelled_pictures(
    autoencoder: AutoEncoder, *, seed: int, count: int, report: Callable[[int], None] = lambda done: None
) -> Labelled:
    """`count` pictures, a function of the seed and the autoencoder. `report` is told how many are done."""
    pieces = []
    for start in range(0, count, PIECE):
        num, piece_seed = min(PIECE, count - start), derive_seed(seed, "reward model pictures", start)
        rng = np.random.default_rng(piece_seed)
        images_S3HW, others_S3HW = rendered([random_scene(rng) for _ in range(2 * num)], rng).chunk(2)
        pieces.append(labelled(spoilt(images_S3HW, others_S3HW, autoencoder, piece_seed)))
        report(start + num)
    return joined(pieces)


def labelled(images_S3HW: Tensor) -> Labelled:
    """Pictures in [0, 1] rounded to whole 255ths, with what the detector sees in them."""
    pixels_S3HW = (images_S3HW.clamp(0, 1) * 255).round() / 255
    labels_SK3 = np.stack([cell_labels(to_uint8_HW3(image)) for image in pixels_S3HW])
    return Labelled(pixels_S3HW, *torch.from_numpy(labels_SK3).unbind(-1))


def joined(parts: Sequence[Labelled]) -> Labelled:
    """One after another."""
    return Labelled(*(torch.cat([getattr(part, name) for part in parts]) for name in Labelled.__slots__))


def rendered(scenes: Sequence[Scene], rng: np.random.Generator) -> Tensor:
    """[S, 3, H, W] float32 in [0, 1]."""
    return torch.from_numpy(np.stack([render(scene, rng) for scene in scenes])).permute(0, 3, 1, 2).float() / 255


def to_uint8_HW3(image_3HW: Tensor) -> NDArray[np.uint8]:
    """A picture in [0, 1] as detectors and verifiers read it."""
    pixels: NDArray[np.uint8] = (image_3HW.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return pixels


def spoilt(images_S3HW: Tensor, others_S3HW: Tensor, autoencoder: AutoEncoder, seed: int) -> Tensor:
    """The pictures with faults, in [0, 1]; few stay sound. `others`, as many, are what some get parts of."""
    noise = torch.Generator().manual_seed(seed)
    return _faulty(_autoencoded(images_S3HW, others_S3HW, autoencoder, noise), others_S3HW, noise).clamp(0, 1)


@torch.no_grad()
def _autoencoded(images_S3HW: Tensor, others_S3HW: Tensor, autoencoder: AutoEncoder, noise: torch.Generator) -> Tensor:
    """Most of the pictures decoded from noisy latents, some of their cells between their own scene and another."""
    chosen = torch.randperm(len(images_S3HW), generator=noise)[: round(AUTOENCODED * len(images_S3HW))]
    num = len(chosen)
    both = 2 * torch.cat((images_S3HW[chosen], others_S3HW[chosen])) - 1
    mean, _ = autoencoder.posterior(both[:1])
    own, other = autoencoder.encode(both, torch.randn((2 * num, *mean.shape[1:]), generator=noise)).chunk(2)
    mixed = torch.rand((num, 1, GRID, GRID), generator=noise) < MIXED_CELLS
    mixed[::2] = False
    share = _each_cell(torch.rand((num, 1, GRID, GRID), generator=noise) * mixed, own.shape[-1] // GRID)
    spread = MAX_LATENT_NOISE * torch.rand((num, 1, 1, 1), generator=noise)
    latent = own + share * (other - own) + spread * torch.randn(own.shape, generator=noise)
    return images_S3HW.index_copy(0, chosen, autoencoder.decode(latent) / 2 + 0.5)


def _each_cell(values: Tensor, pixels: int) -> Tensor:
    """[..., rows, columns] to [..., H, W]: a value a cell becomes one for each of its pixels."""
    return values.repeat_interleave(pixels, -2).repeat_interleave(pixels, -1)


def _faulty(images_S3HW: Tensor, others_S3HW: Tensor, noise: torch.Generator) -> Tensor:
    """Each fault applied to a share of the pictures: cells half painted over, faded, tinted, blurred, noisy."""

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand((len(images_S3HW), *shape), generator=noise)

    def some(faulty: Tensor, images: Tensor) -> Tensor:
        return torch.where(uniform(1, 1, 1) < FAULTY, faulty, images)

    background = torch.tensor(BACKGROUND)[:, None, None]
    cover = torch.where(uniform(1, 1, 1) < 0.5, others_S3HW, background)
    images = some(torch.where(_halves(uniform(GRID, GRID), uniform(GRID, GRID)), cover, images_S3HW), images_S3HW)
    fade = _each_cell(uniform(1, GRID, GRID, low=FADE_RANGE[0], high=FADE_RANGE[1]), CELL_PIXELS)
    images = some(background + fade * (images - background), images)
    images = some(images * uniform(3, 1, 1, low=TINT_RANGE[0], high=TINT_RANGE[1]), images)
    kernel = torch.tensor([0.25, 0.5, 0.25])
    smooth = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), torch.outer(kernel, kernel).expand(3, 1, 3, 3), groups=3)
    images = some(images + uniform(1, 1, 1) * (smooth - images), images)
    speckle = torch.randn(images.shape, generator=noise)
    return some(images + MAX_NOISE * uniform(1, 1, 1) * speckle, images)


def _halves(direction_Shw: Tensor, reach_Shw: Tensor) -> Tensor:
    """[S, 1, H, W] mask: of half of the cells, the part on one side of a straight line at a random angle and distance."""
    angle, reach = _each_cell(2 * torch.pi * direction_Shw, CELL_PIXELS), _each_cell(reach_Shw, CELL_PIXELS)
    along_P = (torch.arange(CELL_PIXELS) - (CELL_PIXELS - 1) / 2).repeat(GRID)
    distance = along_P[:, None] * angle.sin() + along_P[None, :] * angle.cos()
    return (distance > (4 * reach - 1) * CELL_PIXELS / 2)[:, None]


def cell_labels(image_HW3: NDArray[np.uint8]) -> NDArray[np.int64]:
    """[K, 3] kind, colour and shape of every cell, as the detector sees the whole picture.

    Two objects in one cell are something unrecognised. Where the picture holds something unrecognised, it is in every cell in
    which the detector, given that cell alone, sees more than the object that it saw there in the whole picture.
    """
    seen = detect(image_HW3)
    labels_K3 = np.full((len(CELLS), 3), (EMPTY, NO_OBJECT, NO_OBJECT))
    unrecognised = (UNRECOGNISED, NO_OBJECT, NO_OBJECT)
    for found in seen.objects:
        x1, y1, x2, y2 = found.box
        index = int((y1 + y2) / 2 // CELL_PIXELS) * GRID + int((x1 + x2) / 2 // CELL_PIXELS)
        free = labels_K3[index, 0] == EMPTY
        labels_K3[index] = (OBJECT, COLORS.index(found.color), SHAPES.index(found.label)) if free else unrecognised
    for index, cell in enumerate(CELLS if seen.unrecognised else ()):
        row, column = (CELL_PIXELS * place for place in cell_row_column(cell))
        alone = detect(image_HW3[row : row + CELL_PIXELS, column : column + CELL_PIXELS])
        if len(alone.objects) + alone.unrecognised > (labels_K3[index, 0] == OBJECT):
            labels_K3[index] = unrecognised
    return labels_K3
