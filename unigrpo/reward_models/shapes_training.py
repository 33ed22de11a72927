"""The short training of the reader of the shapes world."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.reward_models.shapes import CellLogp, ShapesReaderConfig, ShapesRewardModel
from unigrpo.reward_models.shapes_climbing import climbed_pictures
from unigrpo.reward_models.shapes_pictures import OBJECT, Labelled, joined
from unigrpo.seeds import derive_seed

WARMUP_SHARE = 0.05
"""Share of the steps over which the learning rate rises; then it falls to 0."""
LABEL_SMOOTHING = 0.02
"""Share of each label spread over its alternatives: what is wrong then costs about as much everywhere, so that a probability
counts faults, and no cell is so sure of itself that its gradient vanishes."""
ROUNDS = 8
"""Parts that training has; before each but the first, pictures that fool the reader are sought and added."""
PIXEL_CLIMBS, LATENT_CLIMBS = 1 / 24, 1 / 48
"""Pictures sought before each part, as shares of those given; in the end they are more than four tenths as many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderProgress:
    """What one update saw."""

    step: int
    """Updates done."""
    loss: float
    """Nats a cell."""
    cells_right: float
    """Share of cells whose kind, colour and shape are all the likeliest."""


def train_shapes_reward(
    pictures: Labelled,
    autoencoder: AutoEncoder,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    report: Callable[[ReaderProgress], None],
) -> ShapesRewardModel:
    """A frozen reader trained from nothing; the same for the same seed. `report` sees every update.

    Batches are drawn from the pictures and, round by round, also from those that its own gradient has led to so far.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "reward model weights"))
        model = ShapesRewardModel(ShapesReaderConfig())
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    warmup = max(1, round(steps * WARMUP_SHARE))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    )
    draw = torch.Generator().manual_seed(derive_seed(seed, "reward model batches"))
    pool = pictures
    pixels, latents = (math.ceil(share * len(pictures.images_S3HW)) for share in (PIXEL_CLIMBS, LATENT_CLIMBS))
    for step in range(steps):
        if step and step % max(1, steps // ROUNDS) == 0:
            climbs = derive_seed(seed, "reward model round", step)
            pool = joined((pool, climbed_pictures(model, pool, autoencoder, seed=climbs, pixels=pixels, latents=latents)))
        batch = pool.select(torch.randint(len(pool.images_S3HW), (batch_size,), generator=draw))
        read = model.read(batch.images_S3HW)
        loss = _loss(read, batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        report(ReaderProgress(step=step + 1, loss=loss.item(), cells_right=float(_right(read, batch).float().mean())))
    return model.requires_grad_(False).eval()


def _loss(read: CellLogp, batch: Labelled) -> Tensor:
    """Negative log-likelihood of the smoothed labels, mean over cells; colour and shape count where there is an object."""
    pairs = ((read.kind_SK3, batch.kind_SK), (read.color_SK6, batch.color_SK), (read.shape_SK4, batch.shape_SK))
    parts = [
        F.cross_entropy(logp.flatten(0, 1), label.flatten(), reduction="sum", label_smoothing=LABEL_SMOOTHING)
        for logp, label in pairs
    ]
    return torch.stack(parts).sum() / batch.kind_SK.numel()


def _right(read: CellLogp, batch: Labelled) -> Tensor:
    """[S, K] whether all that was said of a cell is so."""
    described = (read.color_SK6.argmax(-1) == batch.color_SK) & (read.shape_SK4.argmax(-1) == batch.shape_SK)
    return (read.kind_SK3.argmax(-1) == batch.kind_SK) & (described | (batch.kind_SK != OBJECT))
