"""What a run is. Defaults are the paper's (UniGRPO, arXiv:2603.23500, Table 3) where it states a value.

Two tasks share the sections: `train` (the reinforcement learning loop) and `sft` (the fine-tuning that makes its start).
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from configs.algorithms import Algorithm, UniGrpo
from configs.base import AbsolutePath, Section
from configs.guidance import Guidance
from configs.reward import Reward
from configs.reward_model import RewardModelConfig
from configs.reward_service import RewardServiceConfig
from configs.roles import (
    ClusterConfig,
    DenoiserConfig,
    LearnerConfig,
    ParameterGroup,
    Placement as Placement,
    ReasonerConfig,
    require_rates,
)
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


class ModelConfig(Section):
    path: AbsolutePath | None = None
    """Checkpoint folder in the released BAGEL layout, or `bundled:shapes` in this package; null is still to be given."""
    system_prompt: str = THINK_PROMPT
    """Text segment before every prompt (BAGEL's own by default); empty for none."""


class ShapesPrompts(Section):
    kind: Literal["shapes"] = "shapes"
    split: Literal["train", "tuning", "held_out"] = "train"
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


class Stage(Section):
    """What follows on the first stage of a run: from the policy it ends with, with another objective and a new optimizer."""

    steps: PositiveInt
    """Turns of the loop."""
    algorithm: Algorithm
    """What is maximised now; its reference is the policy that the first stage ends with."""


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
    algorithm: Algorithm = UniGrpo()
    then: Stage | None = None
    """A second stage; null for none."""
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

    @property
    def evaluation_thinks(self) -> bool:
        """Whether the policy thinks in evaluations."""
        return self.rollout.thinks if self.evaluation.thinks is None else self.evaluation.thinks

    @property
    def trains(self) -> tuple[ParameterGroup, ...]:
        """The experts that the first stage trains."""
        return self.learner.trains or self.algorithm.trains

    @property
    def num_thoughts(self) -> int:
        """Thoughts of one prompt; where the policy does not think, contexts that count as one each."""
        return self.rollout.group_size // self.rollout.images_per_thought

    def _objectives(self) -> Iterator[tuple[str, Algorithm]]:
        yield "algorithm", self.algorithm
        if self.then is not None:
            yield "then.algorithm", self.then.algorithm

    @model_validator(mode="after")
    def _objective_is_trained(self) -> Self:
        given, own = self.learner.trains, self.algorithm.trains
        allowed = [set(own), {*own, "vision"}] if "text" in own else [set(own)]
        if given is not None and (self.then is not None or set(given) not in allowed):
            raise ValueError(
                f"learner.trains is {list(given)}, but algorithm.kind {self.algorithm.kind} trains {list(own)}; leave "
                "learner.trains out, or, of a run of one stage that learns from thoughts, add vision"
            )
        trained = {group for _, algorithm in self._objectives() for group in algorithm.trains} | set(self.trains)
        require_rates(self.learner, trained)
        for key, algorithm in self._objectives():
            if "text" in algorithm.trains and not self.rollout.thinks:
                raise ValueError(
                    f"{key}.kind is {algorithm.kind}, which learns from thoughts, but rollout.thinks is false; let the policy "
                    "think, or take an objective of paintings alone"
                )
        return self

    @model_validator(mode="after")
    def _window_fits(self) -> Self:
        for key, algorithm in self._objectives():
            window = algorithm.window
            steps = self.sampler.num_points - 1
            if window is not None and window.range[1] > (last := steps if window.noise_level == 0 else steps - 1):
                raise ValueError(
                    f"{key}.kind {algorithm.kind} records denoising steps before {window.range[1]}, but "
                    f"{self.sampler.num_points} points make {steps} steps, of which it can take the first {last}; lower the "
                    "end of its range or raise sampler.num_points"
                )
        return self

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        size, images = self.rollout.group_size, self.rollout.images_per_thought
        if size % images:
            raise ValueError(
                f"rollout.group_size is {size}, which rollout.images_per_thought={images} does not divide; make it a multiple"
            )
        if images > 1 and not self.rollout.thinks:
            raise ValueError(
                f"rollout.images_per_thought is {images}, but rollout.thinks is false; leave it 1 where nothing is thought"
            )
        if images == size and any("text" in algorithm.trains for _, algorithm in self._objectives()):
            raise ValueError(
                f"rollout.images_per_thought is {images}, all of the group: one thought alone has nothing to be compared with; "
                "lower it, or raise rollout.group_size"
            )
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        prompts, pieces = self.rollout.prompts_per_step, self.rollout.prompts_per_piece
        if prompts % pieces:
            raise ValueError(
                f"rollout.prompts_per_step is {prompts}, which pieces of rollout.prompts_per_piece={pieces} do not divide; "
                "make one a multiple of the other"
            )
        if self.reasoner.max_model_len <= self.rollout.max_thought_tokens:
            raise ValueError(
                f"reasoner.max_model_len is {self.reasoner.max_model_len}, which leaves no room for a prompt beside thoughts "
                f"of rollout.max_thought_tokens={self.rollout.max_thought_tokens}; raise the first or lower the second"
            )
        for key, algorithm in self._objectives():
            if prompts % algorithm.mini_batches:
                raise ValueError(
                    f"rollout.prompts_per_step is {prompts}, which {key}.mini_batches={algorithm.mini_batches} does not "
                    "divide; make prompts_per_step a multiple of it"
                )
            samples = prompts // algorithm.mini_batches * self.num_thoughts
            if samples % self.learner.num_ranks:
                raise ValueError(
                    f"a mini-batch holds {samples} samples, which {self.learner.num_ranks} learner ranks cannot share evenly; "
                    "make prompts_per_step / mini_batches * group_size / images_per_thought a multiple of learner.num_ranks"
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


Config = Annotated[TrainConfig | SftConfig | RewardServiceConfig | RewardModelConfig, Field(discriminator="task")]
