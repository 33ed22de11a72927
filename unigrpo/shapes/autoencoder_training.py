"""The short training of the small autoencoder, on pictures of random scenes, before the transformer's.

The posterior's spread is part of what the painter has to produce, and of what the decoder has to bear: latents are scaled by
their total standard deviation, of means and posterior variance together, so that their noise at flow time 1 is of unit size.

Shapes: S pictures, Z latent channels, hw latent pixels, HW pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from configs.schema import AutoencoderConfig
from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.config import AutoEncoderConfig
from unigrpo.seeds import derive_seed
from unigrpo.shapes.render import render
from unigrpo.shapes.world import CELLS, COLORS, PICTURE_PIXELS, SHAPES, Item, Scene

MAX_OBJECTS = 7
"""Most objects of a training scene; plans, wrong ones included, hold up to six."""
WARMUP_SHARE = 0.05
"""Share of the steps over which the learning rate rises."""
CALIBRATION_PICTURES = 512
"""Pictures from which scale and shift are measured."""

SMALL_AUTOENCODER = AutoEncoderConfig(resolution=PICTURE_PIXELS, ch=32, ch_mult=(1, 1, 1), num_res_blocks=0, z_channels=4)
"""Downsamples by 4: a latent token of 2x2 latent pixels is one cell of 16 numbers. Scale and shift are still to be measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What one step of training saw."""

    step: int
    """Steps done."""
    reconstruction: float
    """Mean squared error of pixels in [-1, 1]."""
    kl: float
    """KL of the posterior to a unit Gaussian, mean over latent elements, in nats."""


def random_scene(rng: np.random.Generator) -> Scene:
    """A scene of 0 to MAX_OBJECTS objects, every choice uniform."""
    cells = rng.permutation(len(CELLS))[: rng.integers(MAX_OBJECTS + 1)]
    return Scene(tuple(Item(str(rng.choice(COLORS)), str(rng.choice(SHAPES)), CELLS[cell]) for cell in cells))


def scene_pictures(seed: int, step: int, count: int) -> Tensor:
    """[S, 3, H, W] in [-1, 1]: pictures of random scenes, a function of (seed, step)."""
    rng = np.random.default_rng(derive_seed(seed, "autoencoder pictures", step))
    images_SHW3 = np.stack([render(random_scene(rng), rng) for _ in range(count)])
    return torch.from_numpy(images_SHW3).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_autoencoder(config: AutoencoderConfig, *, seed: int, report: Callable[[Progress], None]) -> AutoEncoder:
    """Train the small autoencoder from nothing and measure its scale and shift; the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "autoencoder weights"))
        autoencoder = AutoEncoder(SMALL_AUTOENCODER)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    warmup = max(1, round(config.steps * WARMUP_SHARE))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (config.steps - step) / max(1, config.steps - warmup))
    )
    noise = torch.Generator().manual_seed(derive_seed(seed, "autoencoder noise"))
    for step in range(config.steps):
        images_S3HW = scene_pictures(seed, step, config.batch_size)
        mean, logvar = autoencoder.posterior(images_S3HW)
        z = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=noise)
        reconstruction = F.mse_loss(autoencoder.decoder(z), images_S3HW)
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        optimizer.zero_grad()
        torch.autograd.backward(reconstruction + config.kl_weight * kl)
        optimizer.step()
        schedule.step()
        report(Progress(step=step + 1, reconstruction=reconstruction.item(), kl=kl.item()))
    return _calibrated(autoencoder, scene_pictures(seed, config.steps, CALIBRATION_PICTURES))


@torch.no_grad()
def _calibrated(autoencoder: AutoEncoder, images_S3HW: Tensor) -> AutoEncoder:
    """The autoencoder with the scale and shift that give latents of these pictures zero mean and unit total variance."""
    mean, logvar = autoencoder.posterior(images_S3HW)
    total_variance = mean.var(correction=0) + logvar.exp().mean()
    autoencoder.config = replace(
        autoencoder.config, scale_factor=float(total_variance.rsqrt()), shift_factor=float(mean.mean())
    )
    return autoencoder.eval()
