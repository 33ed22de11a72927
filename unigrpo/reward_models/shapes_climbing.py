"""Pictures that fool the reader of the shapes world: found by climbing its own gradient, labelled by what detect.py sees.

Whoever paints by a reward model's gradient climbs it, and ends where the model is wrong unless it has learned what lies there.
Half of the climbs move pixels, which can go anywhere; half move latents of the autoencoder, as a painter does.

Shapes: S pictures, K cells, HW pixels.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.reward_models.shapes import ShapesRewardModel
from unigrpo.reward_models.shapes_pictures import Labelled, labelled
from unigrpo.seeds import derive_seed

CHANGED_CELLS = 0.35
"""Share of cells that a climb wants to show something else, taken from another picture."""
CLIMBS = 64
"""Pictures that climb together."""
PIXEL_STEPS, PIXEL_RATE = 20, 0.03
LATENT_STEPS, LATENT_RATE = 15, 0.1
"""Adam steps of a climb and the mean of their sizes, in pixels of [0, 1] or latents of unit scale; some are twice as large."""


def climbed_pictures(
    model: ShapesRewardModel, pictures: Labelled, autoencoder: AutoEncoder, *, seed: int, pixels: int, latents: int
) -> Labelled:
    """Pictures climbed from some of those given, `pixels` and `latents` of each kind in batches of CLIMBS."""
    draw = torch.Generator().manual_seed(derive_seed(seed, "reward model climbs"))
    found: list[Tensor] = []
    for count, steps, rate, encode, decode in (
        (pixels, PIXEL_STEPS, PIXEL_RATE, _same, _same),
        (latents, LATENT_STEPS, LATENT_RATE, lambda images: _encoded(images, autoencoder), _decoder(autoencoder)),
    ):
        for start in range(0, count, CLIMBS):
            chosen = torch.randint(len(pictures.images_S3HW), (2, min(CLIMBS, count - start)), generator=draw)
            own, other = pictures.select(chosen[0]), pictures.select(chosen[1])
            wanted = _wanted(own, other, draw)
            size = rate * 2 * float(torch.rand((), generator=draw))
            place = _climb(model, encode(own.images_S3HW), decode, wanted, steps=steps, rate=size)
            found.append(decode(place).detach())
    return labelled(torch.cat(found))


def _wanted(own: Labelled, other: Labelled, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Kind, colour and shape that each cell should come to show: its own, or another picture's."""
    changed_SK = torch.rand(own.kind_SK.shape, generator=draw) < CHANGED_CELLS
    pairs = ((other.kind_SK, own.kind_SK), (other.color_SK, own.color_SK), (other.shape_SK, own.shape_SK))
    kind_SK, color_SK, shape_SK = (torch.where(changed_SK, new, old) for new, old in pairs)
    return kind_SK, color_SK, shape_SK


def _climb(
    model: ShapesRewardModel,
    start: Tensor,
    decode: Callable[[Tensor], Tensor],
    wanted: tuple[Tensor, Tensor, Tensor],
    *,
    steps: int,
    rate: float,
) -> Tensor:
    """Where Adam comes to from a start, making what is wanted likelier to the model."""
    place = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([place], lr=rate)
    for _ in range(steps):
        read = model.read(decode(place))
        parts = [
            F.nll_loss(logp.flatten(0, 1), label.flatten(), reduction="sum")
            for logp, label in zip((read.kind_SK3, read.color_SK6, read.shape_SK4), wanted, strict=True)
        ]
        (place.grad,) = torch.autograd.grad(torch.stack(parts).sum(), place)
        optimizer.step()
    return place.detach()


def _same(images_S3HW: Tensor) -> Tensor:
    return images_S3HW.clamp(0, 1)


@torch.no_grad()
def _encoded(images_S3HW: Tensor, autoencoder: AutoEncoder) -> Tensor:
    return autoencoder.encode(2 * images_S3HW - 1, None)


def _decoder(autoencoder: AutoEncoder) -> Callable[[Tensor], Tensor]:
    return lambda latent: (autoencoder.decode(latent) / 2 + 0.5).clamp(0, 1)
