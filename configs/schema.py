"""What a run is. Defaults are the paper's (UniGRPO, arXiv:2603.23500, Table 3) where it states a value.

Two tasks share the sections: `train` (the reinforcement learning loop) and `sft` (the fine-tuning that makes its start).
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from configs.base import AbsolutePath, Section
from configs.guidance import Guidance
from configs.reward import Reward
from configs.reward_model import RewardModelConfig
from configs.reward_service import RewardServiceConfig
from configs.roles import ClusterConfig, DenoiserConfig, LearnerConfig, ParameterGroup, Placement as Placement, ReasonerConfig
from configs.sft import (
    ArchitectureConfig as ArchitectureConfig,
    AutoencoderConfig as AutoencoderConfig,
    ConditionDropout,
    FileData,
    NewStart,
    SftData,
    ShapesData,
    Start,
)
from configs.think_prompt import THINK_PROMPT
from configs.verifiers import GenevalReward

LowClip = Annotated[float, Field(gt=0, lt=1)]


class ModelConfig(Section):
    path: AbsolutePath | None = None
    """Checkpoint folder in the released BAGEL layout, or `bundled:shapes` in this package; null is still to be given."""
    system_prompt: str = THINK_PROMPT
    """Text segment before every prompt (BAGEL's own by default); empty for none."""


class ShapesPrompts(Section):
    kind: Literal["shapes"] = "shapes"
    split: Literal["train", "held_out"] = "train"
    """Half of the shapes world: what training may see, or what neither fine-tuning nor training has seen."""


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
    """G: siblings of one prompt; one alone has nothing to be compared with."""
    max_thought_tokens: PositiveInt = 1024
    """Longest thought in tokens, eos included; a longer one is cut and flagged."""
    prompts_per_piece: PositiveInt = 1
    """Groups that travel together through thinking, painting and judging; decides what is batched, never when."""


class SamplerConfig(Section):
    num_points: int = Field(default=25, ge=2)
    """N: points of the time grid; N - 1 velocity evaluations."""
    shift: PositiveFloat = 3.0
    """Timestep shift s in t' = s t / (1 + (s - 1) t)."""
    noise_level: PositiveFloat = 0.8
    """eta in sigma = eta sqrt(t / (1 - t))."""
    window_range: tuple[NonNegativeInt, NonNegativeInt] = (0, 5)
    """[lo, hi): steps the stochastic window may cover; its start is drawn from lo .. hi - size for each step."""
    window_size: PositiveInt = 3
    """W: consecutive steps that are sampled stochastically and trained."""
    height: PositiveInt = 1024
    """Height of a painting in pixels."""
    width: PositiveInt = 1024
    """Width of a painting in pixels."""

    @model_validator(mode="after")
    def _window_fits(self) -> Self:
        lo, hi = self.window_range
        if hi > self.num_points - 2:
            raise ValueError(
                f"sampler.window_range ends at {hi}, but {self.num_points} points make {self.num_points - 1} steps, "
                "of which the last is deterministic; lower the end or raise sampler.num_points"
            )
        if self.window_size > hi - lo:
            raise ValueError(
                f"sampler.window_size is {self.window_size}, but the range [{lo}, {hi}) holds {hi - lo} steps; "
                "widen sampler.window_range or shrink sampler.window_size"
            )
        return self


class NoRegulariser(Section):
    kind: Literal["none"] = "none"


class VelocityMse(Section):
    kind: Literal["velocity_mse"] = "velocity_mse"
    weight: PositiveFloat = 1.5e-5
    """beta_img at D_ref = 262,144 latent elements; scaled by sqrt(D_ref / D)."""


class LatentKl(Section):
    kind: Literal["latent_kl"] = "latent_kl"
    weight: PositiveFloat
    """Weight of the Gaussian KL between transition means; the paper's ablation."""


Regulariser = Annotated[NoRegulariser | VelocityMse | LatentKl, Field(discriminator="kind")]


class UniGrpo(Section):
    kind: Literal["unigrpo"] = "unigrpo"
    text_clip: tuple[LowClip, PositiveFloat] = (0.20, 0.28)
    """Text ratio clip, low and high: 1 - low .. 1 + high. The paper leaves it open; AlphaGRPO's values."""
    text_kl: NonNegativeFloat = 0.0
    """beta_txt: weight of the k3 KL of thoughts against the reference; 0 computes none."""
    flow_weight: PositiveFloat = 1.0
    """lambda: weight of the flow term beside the text term."""
    flow_clip: PositiveFloat = 1e-6
    """Clip of the normalised flow ratio at D_ref = 262,144 latent elements; scaled by sqrt(D_ref / D)."""
    ratio_norm: bool = True
    """RatioNorm (paper equation 5); off uses the plain mean log-ratio."""
    regulariser: Regulariser = VelocityMse()
    """What holds the painter near the reference."""
    context_gradient: Literal["full", "stop"] = "full"
    """Whether the flow term reaches the text expert (and the vision tower) through the context's keys and values. `stop` needs
    text and generation trained: there is else nothing to keep apart, or nothing that the tower could learn from."""
    ppo_epochs: PositiveInt = 2
    """Passes over the step's samples."""
    mini_batches: PositiveInt = 1
    """Disjoint mini-batches a pass is cut into, one optimizer update each; they divide rollout.prompts_per_step."""


OBJECTIVE_NEEDS: Mapping[str, tuple[ParameterGroup, ...]] = {
    "text_clip": ("text",),
    "text_kl": ("text",),
    "flow_weight": ("generation",),
    "flow_clip": ("generation",),
    "ratio_norm": ("generation",),
    "regulariser": ("generation",),
    "context_gradient": ("text", "generation"),
}
"""What must be trained for a key of the objective to have an effect."""


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
    """Classifier-free guidance of the paintings; null paints as training does, without."""

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


class TrainConfig(Section):
    """Reinforcement learning of one model: what `unigrpo train` reads."""

    task: Literal["train"] = "train"
    seed: NonNegativeInt = 0
    """Seeds every prompt order, thought and painting, whatever the number of workers."""
    steps: PositiveInt
    """Turns of the loop."""
    run_dir: AbsolutePath
    """Folder of the run: config, metrics, checkpoints, samples. A run found there is resumed."""
    model: ModelConfig = ModelConfig()
    prompts: Prompts
    rollout: RolloutConfig = RolloutConfig()
    sampler: SamplerConfig = SamplerConfig()
    algorithm: UniGrpo = UniGrpo()
    reasoner: ReasonerConfig = ReasonerConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    reward: Reward = GenevalReward()
    learner: LearnerConfig = LearnerConfig()
    cluster: ClusterConfig = ClusterConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    logging: LoggingConfig = LoggingConfig()

    @property
    def evaluation_reward(self) -> Reward:
        """Who judges evaluations."""
        return self.evaluation.reward or self.reward

    @model_validator(mode="after")
    def _objective_is_trained(self) -> Self:
        self.learner.require_trained(self.algorithm, "algorithm.", OBJECTIVE_NEEDS)
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        prompts, pieces = self.rollout.prompts_per_step, self.rollout.prompts_per_piece
        if prompts % pieces:
            raise ValueError(
                f"rollout.prompts_per_step is {prompts}, which pieces of rollout.prompts_per_piece={pieces} do not divide; "
                "make one a multiple of the other"
            )
        if prompts % self.algorithm.mini_batches:
            raise ValueError(
                f"rollout.prompts_per_step is {prompts}, which algorithm.mini_batches={self.algorithm.mini_batches} does not "
                "divide; make prompts_per_step a multiple of it"
            )
        if self.reasoner.max_model_len <= self.rollout.max_thought_tokens:
            raise ValueError(
                f"reasoner.max_model_len is {self.reasoner.max_model_len}, which leaves no room for a prompt beside thoughts "
                f"of rollout.max_thought_tokens={self.rollout.max_thought_tokens}; raise the first or lower the second"
            )
        samples = prompts // self.algorithm.mini_batches * self.rollout.group_size
        if samples % self.learner.num_ranks:
            raise ValueError(
                f"a mini-batch holds {samples} samples, which {self.learner.num_ranks} learner ranks cannot share evenly; "
                "make prompts_per_step / mini_batches * group_size a multiple of learner.num_ranks"
            )
        return self


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

    @model_validator(mode="after")
    def _every_key_counts(self) -> Self:
        for name in ("text_micro_batch", "bucket_bytes"):
            given, default = getattr(self.learner, name), LearnerConfig.model_fields[name].default
            if given != default:
                raise ValueError(
                    f"learner.{name} is {given}, which has no effect with task sft: examples are cut by "
                    "learner.flow_micro_batch, and nothing is published; leave it out"
                )
        flow: tuple[ParameterGroup, ...] = ("generation",)
        self.learner.require_trained(self, "", {"noise_draws": flow, "timestep_shift": flow, "flow_weight": flow})
        return self

    @model_validator(mode="after")
    def _start_is_enough(self) -> Self:
        if isinstance(self.start, NewStart) and "vision" in self.learner.trains:
            raise ValueError(
                f"learner.trains is {list(self.learner.trains)}, but start.kind is new: a model made from nothing has no "
                "vision tower; leave vision out, or give start.kind checkpoint and start.path"
            )
        if isinstance(self.start, NewStart) and isinstance(self.data, FileData):
            raise ValueError(
                "data.kind is file, but start.kind is new: a model made from nothing knows the words of the shapes world only; "
                "give start.kind checkpoint and start.path, or data.kind shapes"
            )
        return self


Config = Annotated[TrainConfig | SftConfig | RewardServiceConfig | RewardModelConfig, Field(discriminator="task")]
