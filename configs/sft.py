"""Supervised fine-tuning: what it starts from, and what it imitates."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from configs.base import AbsolutePath, Section
from configs.roles import ClusterConfig, LearnerConfig, ParameterGroup, require_rates
from configs.sections import CheckpointConfig
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
    """Checkpoint folder in the released BAGEL layout, or `bundled:shapes_base` in this package; null is still to be given."""


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
    """Shares of examples that leave out a condition, so that guidance has something to guide away from."""

    text: Probability = 0.1
    """Prompt and thought; the system prompt stays, as in the branch without text that guidance evaluates."""
    latents: Probability = 0.3
    """The latent block of a source picture; its position stays taken."""
    patches: Probability = 0.3
    """The patch block of a source picture; its position stays taken."""


class SftConfig(Section):
    """Supervised fine-tuning on (prompt, thought, picture): what `unigrpo sft` reads."""

    task: Literal["sft"]
    seed: NonNegativeInt = 0
    """Seeds weights, data and noise."""
    steps: PositiveInt
    """Optimizer updates."""
    run_dir: AbsolutePath
    """Folder of the run; a run found there is resumed."""
    start: Start = NewStart()
    """The weights of step 0."""
    data: SftData = ShapesData()
    """The examples."""
    batch_size: PositiveInt = 32
    """Examples a step."""
    noise_draws: PositiveInt = 4
    """(t, noise) pairs for each picture of a step, sharing one context."""
    timestep_shift: PositiveFloat = 1.0
    """s in t' = s t / (1 + (s - 1) t) of logit-normal t; above 1 there is more noise."""
    flow_weight: PositiveFloat = 1.0
    """Weight of the flow-matching loss beside the cross-entropy."""
    dropout: ConditionDropout = ConditionDropout()
    learner: LearnerConfig = LearnerConfig()
    cluster: ClusterConfig = ClusterConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @property
    def trains(self) -> tuple[ParameterGroup, ...]:
        """What is trained; the rest is frozen, and its loss left out."""
        return self.learner.trains or ("text", "generation")

    @model_validator(mode="after")
    def _every_key_counts(self) -> Self:
        for name in ("text_micro_batch", "bucket_bytes"):
            given, default = getattr(self.learner, name), LearnerConfig.model_fields[name].default
            if given != default:
                raise ValueError(
                    f"learner.{name} is {given}, which has no effect with task sft: examples are cut by "
                    "learner.flow_micro_batch, and nothing is published; leave it out"
                )
        require_rates(self.learner, set(self.trains))
        defaults = {key: SftConfig.model_fields[key].default for key in ("noise_draws", "timestep_shift", "flow_weight")}
        idle = [key for key, default in defaults.items() if getattr(self, key) != default]
        if idle and "generation" not in self.trains:
            raise ValueError(
                f"{', '.join(f'{key} is {getattr(self, key)}' for key in idle)}: of no use while learner.trains is "
                f"{list(self.trains)}; add generation there, or leave {', '.join(f'{key}={defaults[key]}' for key in idle)}"
            )
        return self

    @model_validator(mode="after")
    def _start_is_enough(self) -> Self:
        if isinstance(self.start, NewStart) and "vision" in self.trains:
            raise ValueError(
                f"learner.trains is {list(self.trains)}, but start.kind is new: a model made from nothing has no "
                "vision tower; leave vision out, or give start.kind checkpoint and start.path"
            )
        if isinstance(self.start, NewStart) and isinstance(self.data, FileData):
            raise ValueError(
                "data.kind is file, but start.kind is new: a model made from nothing knows the words of the shapes world only; "
                "give start.kind checkpoint and start.path, or data.kind shapes"
            )
        return self
