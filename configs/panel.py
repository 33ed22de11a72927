"""The panel on which reward hacking is watched: what is painted and measured, and from where on it is an alarm."""

from typing import Any

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from configs.base import Section
from configs.reward import Reward
from configs.verifiers import DifferentiableReward, Judge, RewardModelChoice


class Thresholds(Section):
    """How far each measure may move from the panel's first row (unigrpo/hacking.py says which is what); null never alarms."""

    gap: PositiveFloat | None = 0.15
    """Rise of training score minus held-out score, in the units of the scores."""
    saturation: PositiveFloat | None = 0.05
    """Rise of the share of pixels with a channel at 0 or 255."""
    grid_artefact: float | None = Field(default=2.5, gt=1)
    """Growth of the gradient's power at the patch period over that around it, as a factor."""
    diversity: float | None = Field(default=0.5, gt=0, lt=1)
    """Least share of the first row's distance between pictures of one prompt."""
    velocity_rms: float | None = Field(default=1.2, gt=1)
    """Growth or shrinking of the velocity's root mean square, as a factor."""
    thought_tokens: float | None = Field(default=1.5, gt=1)
    """Growth or shrinking of thoughts, as a factor."""
    repetition: PositiveFloat | None = 0.1
    """Rise of the share of a thought's n-grams that stood in it before."""


class PanelConfig(Section):
    """Fixed prompts, thoughts and noise, painted again and again while the policy changes."""

    every: PositiveInt = 10
    """Steps between panels, step 0 and the last included."""
    seed: NonNegativeInt = 0
    """Chooses the prompts and seeds thoughts and noise, whatever the run's own seed."""
    num_prompts: PositiveInt = 16
    """Training prompts, spread over their categories; all of them where there are fewer."""
    images_per_prompt: int = Field(default=4, ge=2)
    """Pictures of each prompt, each from a thought and noise of its own; the distance between them is its diversity."""
    reward: Reward | None = None
    """The held-out verifier, which training never asks; null measures no gap."""
    thresholds: Thresholds = Thresholds()
    """When a measure is an alarm."""

    def due(self, step: int, last: int) -> bool:
        """Whether the policy of `step` (of `last`) is inspected."""
        return step % self.every == 0 or step == last


def judged_by(reward: Reward) -> dict[str, Any]:
    """What decides a reward's scores, as plain values: not where, how long and how much at once it judges."""
    return reward.model_dump(mode="json", exclude=set(Judge.model_fields) - {"kind"})


def judges_alike(one: Reward, other: Reward) -> bool:
    """Whether two rewards give every picture the same score."""
    return judged_by(one) == judged_by(other)


def judges_by(reward: Reward, model: RewardModelChoice) -> bool:
    """Whether a reward is the score of a reward model."""
    return isinstance(reward, DifferentiableReward) and (reward.model, reward.path) == (model.model, model.path)
