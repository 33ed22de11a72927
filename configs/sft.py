"""What fine-tuning starts from, and what it imitates."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from configs.base import AbsolutePath, Section
from configs.think_prompt import THINK_PROMPT

Probability = Annotated[float, Field(ge=0, le=1)]


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
                f"hidden_size is {size}, but RoPE needs an even number of channels for each of num_heads={heads} heads and the "
                f"position tables a multiple of 4; make it a multiple of {math.lcm(2 * heads, 4)}"
            )
        if heads % shared:
            raise ValueError(
                f"num_heads is {heads}, which num_key_value_heads={shared} does not divide; "
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


class NewStart(Section):
    """A small model of the shapes world made from nothing: it knows that world's words only, and sees no pictures."""

    kind: Literal["new"] = "new"
    architecture: ArchitectureConfig = ArchitectureConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()


class CheckpointStart(Section):
    kind: Literal["checkpoint"] = "checkpoint"
    path: AbsolutePath | None = None
    """Checkpoint folder in the released BAGEL layout, or `bundled:shapes` in this package; null is still to be given."""


Start = Annotated[NewStart | CheckpointStart, Field(discriminator="kind")]


class ShapesData(Section):
    """Generated examples of the shapes world, without system prompt."""

    kind: Literal["shapes"] = "shapes"
    wrong_plans: Probability = 0.15
    """Share of thoughts whose plan is corrupted (count, colour, shape or mirrored relation): headroom for the text branch."""
    wrong_objects: Probability = 0.07
    """Share of objects painted otherwise than planned: headroom for the image branch."""
    without_thought: Probability = 0.2
    """Share of items that paint straight from the prompt."""


class FileData(Section):
    kind: Literal["file"] = "file"
    path: AbsolutePath | None = None
    """JSONL, one example a line: prompt, image, optional thought and source_image; null is still to be given."""
    system_prompt: str = THINK_PROMPT
    """Text segment before the prompt of an example that has a thought; empty for none. An example without one never has it."""
    longest_side: PositiveInt | None = None
    """Longest side of pictures in pixels; null is the longest that the model paints."""


SftData = Annotated[ShapesData | FileData, Field(discriminator="kind")]


class ConditionDropout(Section):
    """Shares of examples that leave out a condition, so that guidance has something to guide away from (BAGEL.md 8)."""

    text: Probability = 0.1
    """Prompt and thought; the system prompt stays, as in the branch without text that guidance evaluates (BAGEL.md 9)."""
    latents: Probability = 0.3
    """The latent block of a source picture; its position stays taken."""
    patches: Probability = 0.3
    """The patch block of a source picture; its position stays taken."""
