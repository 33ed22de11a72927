"""Splits of random contents for the small model that sees, and rows of them.

Shapes: L latent tokens, V patches, C channels.
"""

import random
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from tests.unigrpo.models.fakes import segments
from tests.unigrpo.models.released import SEEING
from unigrpo.models.bagel.packing import Clean, Gap, Noised, Seen, Split, Text, pack

Grid = tuple[int, int]
packed_row = partial(pack, config=SEEING, device=torch.device("cpu"), dtype=torch.float64)


def drawn(seed: int, *shape: int) -> Tensor:
    """Standard normal, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def text(length: int, seed: int = 0) -> Text:
    """Random ids."""
    return Text(tuple(segments(length, seed=seed)[0].tolist()))


def clean(grid_hw: Grid, seed: int = 0) -> Clean:
    """Random latents."""
    return Clean(drawn(seed, grid_hw[0] * grid_hw[1], SEEING.latent_channels), grid_hw)


def noised(grid_hw: Grid, t: float = 0.6, seed: int = 0) -> Noised:
    """Random latents."""
    return Noised(drawn(seed, grid_hw[0] * grid_hw[1], SEEING.latent_channels), t, grid_hw)


def seen(grid_hw: Grid, seed: int = 0) -> Seen:
    """Random patches."""
    assert SEEING.vision is not None
    return Seen(drawn(seed, grid_hw[0] * grid_hw[1], SEEING.vision.patch_channels), grid_hw)


def random_sample(generator: random.Random) -> list[Split]:
    """Up to 8 splits of any kind, a text among them; pictures of one sample share a size."""
    kinds = generator.choices(("text", "clean", "seen", "noised", "gap"), (4, 2, 2, 2, 1), k=generator.randint(0, 7))
    kinds.insert(generator.randint(0, len(kinds)), "text")
    grid_hw = generator.choice(((1, 1), (2, 3), (3, 2), (1, 3)))
    made: dict[str, Callable[[], Split]] = {
        "text": lambda: text(generator.randint(1, 5)),
        "clean": lambda: clean(grid_hw),
        "seen": lambda: seen(grid_hw),
        "noised": lambda: noised(grid_hw),
        "gap": Gap,
    }
    return [made[kind]() for kind in kinds]
