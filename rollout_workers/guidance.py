"""Guidance while denoising: which velocities a step asks for, and what it makes of them.

Shapes: S samples, L latent tokens of a picture, C channels of a latent token.
"""

from collections.abc import Callable

from torch import Tensor

from configs.guidance import Guidance
from unigrpo.algo.guidance import guided_velocity, is_guided

Velocity = Callable[[Tensor, float], Tensor]
"""(x_SLC, t) -> v_SLC."""


def guided(conditional: Velocity, without_text: Velocity, without_pictures: Velocity | None, guidance: Guidance) -> Velocity:
    """The velocity of guided denoising; outside the interval only `conditional` is evaluated.

    `without_pictures` is None where guidance.image_scale is 1.
    """

    def velocity(x_SLC: Tensor, t: float) -> Tensor:
        v_SLC = conditional(x_SLC, t)
        if not is_guided(t, guidance.interval):
            return v_SLC
        return guided_velocity(
            v_SLC,
            without_text(x_SLC, t),
            without_pictures(x_SLC, t) if without_pictures is not None else None,
            text_scale=guidance.text_scale,
            image_scale=guidance.image_scale,
            renorm=guidance.renorm,
            renorm_min=guidance.renorm_min,
        )

    return velocity
