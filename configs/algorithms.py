"""What is maximised, one section a method of the paper or beyond it, made of the terms that they share.

Every section says what the rest of the house needs to know of it: the experts it `trains`, the `window` of denoising steps that
rollouts record, and how many `updates` a step makes. Defaults are the paper's (UniGRPO, arXiv:2603.23500, Table 3) where it
states a value.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from configs.base import Section
from configs.guidance import Guidance
from configs.roles import ParameterGroup
from configs.verifiers import RewardModelChoice

LowClip = Annotated[float, Field(gt=0, lt=1)]


class Window(Section):
    """The denoising steps that are recorded for the learner."""

    range: tuple[NonNegativeInt, NonNegativeInt] = (0, 5)
    """[lo, hi): steps the window may cover; its start is drawn from lo .. hi - size."""
    size: PositiveInt = 3
    """W: consecutive steps that are recorded and trained."""
    noise_level: NonNegativeFloat = 0.8
    """eta in sigma = eta sqrt(t / (1 - t)) of the window's steps; 0 takes them deterministically."""
    placement: Literal["step", "sample"] = "step"
    """One start for all samples of a step, or one for each painting. One each multiplies the spread of rewards within a group
    (docs/deviations.md)."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        lo, hi = self.range
        if self.size > hi - lo:
            raise ValueError(
                f"window.size is {self.size}, but the range [{lo}, {hi}) holds {hi - lo} steps; widen window.range or shrink "
                "window.size"
            )
        return self


class NoRegulariser(Section):
    kind: Literal["none"] = "none"


class VelocityMse(Section):
    kind: Literal["velocity_mse"] = "velocity_mse"
    weight: PositiveFloat = 1.5e-5
    """beta_img at D_ref = 262,144 latent elements; scaled by sqrt(D_ref / D)."""


class AdaptiveVelocityMse(Section):
    """A velocity MSE whose weight rises after every step on which the drift from the reference is above a target."""

    kind: Literal["adaptive_velocity_mse"] = "adaptive_velocity_mse"
    weight: PositiveFloat = 1.5e-5
    """beta_img of the first step, at D_ref = 262,144 latent elements; scaled by sqrt(D_ref / D)."""
    target: PositiveFloat = 0.1
    """Drift to hold: rms(v - v_ref) / rms(v_ref) over the window's steps."""
    rate: float = Field(default=0.1, gt=0, lt=1)
    """The weight is multiplied by 1 + rate * clip(drift / target - 1, -1, 1) after every step, and never below its first."""


class LatentKl(Section):
    kind: Literal["latent_kl"] = "latent_kl"
    weight: PositiveFloat
    """Weight of the Gaussian KL between transition means, the paper's ablation, at D_ref = 262,144 latent elements; scaled by
    sqrt(D_ref / D)."""


Regulariser = Annotated[NoRegulariser | VelocityMse | AdaptiveVelocityMse | LatentKl, Field(discriminator="kind")]


class Clipped(Section):
    """Several updates from the samples of one step."""

    ppo_epochs: PositiveInt = 2
    """Passes over the step's samples."""
    mini_batches: PositiveInt = 1
    """Disjoint mini-batches a pass is cut into, one optimizer update each; they divide rollout.prompts_per_step."""

    @property
    def updates(self) -> int:
        """Optimizer updates of one step."""
        return self.ppo_epochs * self.mini_batches


class TextTerm(Section):
    """GRPO on thoughts (paper equation 2)."""

    text_clip: tuple[LowClip, PositiveFloat] = (0.20, 0.28)
    """Text ratio clip, low and high: 1 - low .. 1 + high. The paper leaves it open; AlphaGRPO's values."""
    text_kl: NonNegativeFloat = 0.0
    """beta_txt: weight of the k3 KL of thoughts against the reference; 0 computes none."""


class FlowTerm(Section):
    """GRPO on the stochastic steps of paintings (paper equations 4 to 6 and 8)."""

    flow_weight: PositiveFloat = 1.0
    """lambda: weight of the flow term beside the text term."""
    flow_clip: PositiveFloat = 1e-6
    """Clip of the normalised flow ratio at D_ref = 262,144 latent elements; scaled by sqrt(D_ref / D)."""
    ratio_norm: bool = True
    """RatioNorm (paper equation 5); off uses the plain mean log-ratio."""
    regulariser: Regulariser = VelocityMse()
    """What holds the painter near the reference."""
    window: Window = Window()
    """The stochastic steps."""
    guidance: Guidance | None = None
    """Classifier-free guidance of training's paintings, replayed with its gradient; null, as in the paper, is none."""

    @model_validator(mode="after")
    def _is_stochastic(self) -> Self:
        if self.window.noise_level == 0:
            raise ValueError("window.noise_level is 0, which leaves the flow term no density; give a positive one")
        return self

    @model_validator(mode="after")
    def _guides_by_text(self) -> Self:
        guidance = self.guidance
        if guidance is not None and (guidance.text_scale == 1 or guidance.image_scale > 1):
            raise ValueError(
                f"guidance has text_scale {guidance.text_scale} and image_scale {guidance.image_scale}, but training is guided "
                "away from no text alone: give a text_scale above 1 and leave image_scale out, or leave guidance out"
            )
        return self


class FpoTerm(Section):
    """FPO: the difference of flow-matching losses stands for the log-ratio of a whole painting (arXiv:2507.21053)."""

    flow_weight: PositiveFloat = 1.0
    """Weight of the flow term beside the text term."""
    flow_draws: PositiveInt = 8
    """(t, noise) pairs of each painting, the same for the old and the current policy; t is uniform, then shifted as
    sampler.shift says."""
    flow_clip: LowClip = 0.05
    """The ratio is clipped to 1 - clip .. 1 + clip."""
    elbo_clamp: PositiveFloat = 3.0
    """Bound of the mean difference of losses, before it is exponentiated."""


Reach = Literal["full", "stop"]


class UniGrpo(TextTerm, FlowTerm, Clipped):
    """Thoughts and paintings, one advantage for both (paper equation 7)."""

    kind: Literal["unigrpo"] = "unigrpo"
    context_gradient: Reach = "full"
    """Whether the flow term reaches the text expert (and the vision tower) through the context's keys and values."""
    trains: ClassVar[tuple[ParameterGroup, ...]] = ("text", "generation")


class FlowGrpo(FlowTerm, Clipped):
    """Paintings alone: the generation expert."""

    kind: Literal["flow_grpo"] = "flow_grpo"
    trains: ClassVar[tuple[ParameterGroup, ...]] = ("generation",)


class TextGrpo(TextTerm, Clipped):
    """Thoughts alone: the text expert. Paintings are deterministic, as nothing is learned from their noise."""

    kind: Literal["text_grpo"] = "text_grpo"
    trains: ClassVar[tuple[ParameterGroup, ...]] = ("text",)

    @property
    def window(self) -> None:
        """No step is recorded."""


class Fpo(FpoTerm, Clipped):
    """Paintings alone, by their flow-matching losses."""

    kind: Literal["fpo"] = "fpo"
    trains: ClassVar[tuple[ParameterGroup, ...]] = ("generation",)

    @property
    def window(self) -> None:
        """No step is recorded: the finished latent is enough."""


class UniFpo(TextTerm, FpoTerm, Clipped):
    """Thoughts by GRPO and paintings by FPO."""

    kind: Literal["uni_fpo"] = "uni_fpo"
    context_gradient: Reach = "full"
    """Whether the flow term reaches the text expert (and the vision tower) through the context's keys and values."""
    trains: ClassVar[tuple[ParameterGroup, ...]] = ("text", "generation")

    @property
    def window(self) -> None:
        """No step is recorded: the finished latent is enough."""


class Refl(Section):
    """ReFL: climb a differentiable reward through one late denoising step and the decoder (ImageReward, arXiv:2304.05977)."""

    kind: Literal["refl"] = "refl"
    reward_model: RewardModelChoice = RewardModelChoice()
    """What is climbed. Scores and advantages of the `reward` section are logged beside it, and not learned from."""
    late_steps: tuple[NonNegativeInt, NonNegativeInt] = (18, 24)
    """[lo, hi): denoising steps of which one is drawn for each step of training; the default is the last quarter of 24 steps,
    as in ImageReward."""
    mini_batches: PositiveInt = 1
    """Disjoint mini-batches of a step's samples, one optimizer update each; they divide rollout.prompts_per_step."""
    trains: ClassVar[tuple[ParameterGroup, ...]] = ("generation",)

    @model_validator(mode="after")
    def _has_late_steps(self) -> Self:
        lo, hi = self.late_steps
        if lo >= hi:
            raise ValueError(f"late_steps is [{lo}, {hi}), which holds no step; give two numbers that rise")
        return self

    @property
    def window(self) -> Window:
        """The late step, taken deterministically."""
        return Window(range=self.late_steps, size=1, noise_level=0)

    @property
    def updates(self) -> int:
        """Optimizer updates of one step."""
        return self.mini_batches


Algorithm = Annotated[UniGrpo | FlowGrpo | TextGrpo | Fpo | UniFpo | Refl, Field(discriminator="kind")]
