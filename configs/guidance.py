"""Classifier-free guidance: how far a painting is pushed from what the model would paint without its context.

It belongs to evaluations. Training is unguided as in the paper, unless an objective with a flow term asks for it
(`algorithm.guidance`), which is the paper's ablation.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.base import Section

Scale = Annotated[float, Field(ge=1)]
Unit = Annotated[float, Field(ge=0, le=1)]


class Guidance(Section):
    """BAGEL's guidance in two steps, away from no prompt and away from no picture, and its renormalisation."""

    text_scale: Scale = 4.0
    """Weight of the velocity with the prompt against the one without: v_text + scale (v - v_text); 1 is no guidance at all."""
    image_scale: Scale = 1.0
    """Weight of the above against the velocity without pictures and thought; 1 is none, 1.5 or 2 is BAGEL's for editing."""
    interval: tuple[Unit, Unit] = (0.4, 1.0)
    """(lo, hi]: flow times, 1 for noise and 0 for the picture, at which guidance is on."""
    renorm: Literal["global", "channel", "text_channel"] = "global"
    """What is shrunk back to the norm it has without guidance: the whole picture's velocity, that of each latent token, or that
    of each latent token right after the text step and before the image step."""
    renorm_min: Unit = 0.0
    """The least factor of that shrinking; 1 switches it off."""

    @model_validator(mode="after")
    def _every_key_counts(self) -> Self:
        lo, hi = self.interval
        if lo >= hi:
            raise ValueError(f"interval is ({lo}, {hi}], which holds no time; give two numbers that rise")
        if self.text_scale == 1 and self.image_scale > 1:
            raise ValueError(
                f"image_scale is {self.image_scale}, but text_scale 1 switches off all guidance; raise text_scale, or leave "
                "guidance out"
            )
        return self
