"""What fine-tuning makes a model from: its size, its autoencoder's training, and the data."""

import math
from typing import Annotated, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from configs.base import Section

Probability = Annotated[float, Field(ge=0, le=1)]


class ShapesSftData(Section):
    wrong_plans: Probability = 0.15
    """Share of thoughts whose plan is corrupted (count, colour, shape or mirrored relation): headroom for the text branch."""
    wrong_objects: Probability = 0.07
    """Share of objects painted otherwise than planned: headroom for the image branch."""
    without_thought: Probability = 0.2
    """Share of items that paint straight from the prompt."""


class ArchitectureConfig(Section):
    """The size of a model made from nothing; the same class as the released one."""

    hidden_size: PositiveInt = 128
    """Width of both experts."""
    intermediate_size: PositiveInt = 384
    """Width of the gated MLPs."""
    num_layers: PositiveInt = 4
    """Transformer layers."""
    num_heads: PositiveInt = 4
    """Query heads."""
    num_key_value_heads: PositiveInt = 2
    """Key and value heads."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        size, heads, shared = self.hidden_size, self.num_heads, self.num_key_value_heads
        if size % (2 * heads) or size % 4:
            raise ValueError(
                f"architecture.hidden_size is {size}, but RoPE needs an even number of channels for each of "
                f"architecture.num_heads={heads} heads and the position tables a multiple of 4; "
                f"make it a multiple of {math.lcm(2 * heads, 4)}"
            )
        if heads % shared:
            raise ValueError(
                f"architecture.num_heads is {heads}, which architecture.num_key_value_heads={shared} does not divide; "
                "make the first a multiple of the second"
            )
        return self


class AutoencoderConfig(Section):
    """The autoencoder's own short training, before the transformer's."""

    steps: PositiveInt = 3000
    """Optimizer steps."""
    batch_size: PositiveInt = 8
    """Pictures a step."""
    learning_rate: PositiveFloat = 3e-3
    """Peak AdamW rate."""
    kl_weight: NonNegativeFloat = 3e-4
    """Weight of the posterior's KL to a unit Gaussian, per latent element."""
