"""What the tasks of a run share: its model, its prompts, and how it rolls out, paints, evaluates, saves and logs."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from configs.base import AbsolutePath, Section
from configs.guidance import Guidance
from configs.reward import Reward
from configs.think_prompt import THINK_PROMPT


class ModelConfig(Section):
    path: AbsolutePath | None = None
    """Checkpoint folder in the released BAGEL layout, or `bundled:shapes` or `bundled:shapes_base` in this package; null is
    still to be given."""
    system_prompt: str = THINK_PROMPT
    """Text segment before every prompt (BAGEL's own by default); empty for none."""


class ShapesPrompts(Section):
    kind: Literal["shapes"] = "shapes"
    split: Literal["train", "tuning", "held_out"] = "train"
    """Which prompts of the shapes world: what training may see, or one of two sets that neither fine-tuning nor training has
    seen: `tuning` for choices, `held_out` for results."""


class FilePrompts(Section):
    kind: Literal["file"] = "file"
    path: AbsolutePath | None = None
    """JSONL in GenEval's metadata format, one prompt a line; `picture`, a path from this file's folder, is what a line edits.
    null is still to be given."""


class ExamPrompts(Section):
    """The exam benchmark of this project: 150 prompts with 3 to 8 exam points each."""

    kind: Literal["exam"] = "exam"


Prompts = Annotated[ShapesPrompts | FilePrompts | ExamPrompts, Field(discriminator="kind")]


class RolloutConfig(Section):
    prompts_per_step: PositiveInt = 32
    """P: prompts of one step."""
    group_size: int = Field(default=24, ge=2)
    """G: paintings of one prompt; one alone has nothing to be compared with."""
    thinks: bool = True
    """Whether the policy thinks before it paints; off, it paints straight from the prompt, without the system prompt."""
    images_per_thought: PositiveInt = 1
    """K: paintings of one thought; it divides group_size. Above 1, a thought is credited with the mean of its paintings'
    rewards against other thoughts', a painting with its deviation from that mean."""
    max_thought_tokens: PositiveInt = 1024
    """Longest thought in tokens, eos included; a longer one is cut and flagged."""
    prompts_per_piece: PositiveInt = 1
    """Groups that travel together through thinking, painting and judging; decides what is batched, never when."""


class SamplerConfig(Section):
    num_points: int = Field(default=25, ge=2)
    """N: points of the time grid; N - 1 velocity evaluations."""
    shift: PositiveFloat = 3.0
    """Timestep shift s in t' = s t / (1 + (s - 1) t)."""
    height: PositiveInt = 1024
    """Height of a painting in pixels."""
    width: PositiveInt = 1024
    """Width of a painting in pixels."""


class CheckpointConfig(Section):
    every: PositiveInt = 20
    """Steps between checkpoints."""
    keep: PositiveInt = 2
    """Newest complete checkpoints that are kept."""

    def due(self, step: int, last: int) -> bool:
        """Whether a checkpoint is written after `step` of `last`."""
        return step % self.every == 0 or step == last


class EvaluationConfig(Section):
    every: PositiveInt | None = None
    """Steps between evaluations during training, step 0 and the last included; null evaluates never."""
    seed: NonNegativeInt = 0
    """Seeds thoughts and noise of every evaluation, whatever the run's own seed: two policies meet the same draws."""
    prompts: Prompts = ShapesPrompts(split="held_out")
    """What to paint."""
    reward: Reward | None = None
    """Who judges evaluations; null is the training reward."""
    images_per_prompt: PositiveInt = 1
    """Pictures of each prompt, each from its own seed."""
    num_points: int = Field(default=50, ge=2)
    """Points of the deterministic time grid."""
    temperature: NonNegativeFloat = 1.0
    """Of thoughts, with a fixed seed each; 0 is greedy."""
    guidance: Guidance | None = None
    """Classifier-free guidance of the paintings; null is none."""
    thinks: bool | None = None
    """Whether the policy thinks before it paints; null is rollout.thinks."""

    def due(self, step: int, last: int) -> bool:
        """Whether the policy of `step` (of `last`) is evaluated."""
        return self.every is not None and (step % self.every == 0 or step == last)


class LoggingConfig(Section):
    samples_every: PositiveInt = 10
    """Steps between logged sample galleries."""
    samples: PositiveInt = 16
    """Samples in a gallery."""
    gradients_every: PositiveInt = 10
    """Steps between gradient norms of each loss term (one micro-batch)."""

    def samples_due(self, step: int) -> bool:
        """Whether the samples of `step` go to the gallery."""
        return step % self.samples_every == 0
