"""What a run is. Defaults are the paper's (UniGRPO, arXiv:2603.23500, Table 3) where it states a value.

Two tasks share the sections: `train` (the reinforcement learning loop) and `sft` (the fine-tuning that makes its start).
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from configs.algorithms import Algorithm, Refl, UniGrpo
from configs.base import AbsolutePath, Section
from configs.panel import PanelConfig, judges_alike, judges_by
from configs.reward import Reward
from configs.reward_model import RewardModelConfig
from configs.reward_service import RewardServiceConfig
from configs.roles import (
    ClusterConfig,
    DenoiserConfig,
    LearnerConfig,
    ParameterGroup,
    ReasonerConfig,
    require_rates,
)
from configs.sections import (
    CheckpointConfig,
    EvaluationConfig,
    ExamPrompts as ExamPrompts,
    FilePrompts as FilePrompts,
    LoggingConfig,
    ModelConfig as ModelConfig,
    Prompts as Prompts,
    RolloutConfig,
    SamplerConfig as SamplerConfig,
    ShapesPrompts as ShapesPrompts,
)
from configs.sft import ArchitectureConfig as ArchitectureConfig, AutoencoderConfig as AutoencoderConfig, SftConfig as SftConfig
from configs.study import StudyConfig
from configs.verifiers import GenevalReward


class Stage(Section):
    """What follows on the first stage of a run: from the policy it ends with, with another objective and a new optimizer; its
    prompts, thoughts and paintings are drawn anew.
    """

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
    panel: PanelConfig | None = None
    """Where reward hacking is watched; null watches nothing."""
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

    def panel_due(self, step: int) -> bool:
        """Whether the policy of `step` is inspected for reward hacking."""
        return self.panel is not None and self.panel.due(step, self.steps)

    def objectives(self) -> Iterator[tuple[str, Algorithm]]:
        """What each stage maximises, with the key of its section."""
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
        trained = {group for _, algorithm in self.objectives() for group in algorithm.trains} | set(self.trains)
        require_rates(self.learner, trained)
        for key, algorithm in self.objectives():
            if "text" in algorithm.trains and not self.rollout.thinks:
                raise ValueError(
                    f"{key}.kind is {algorithm.kind}, which learns from thoughts, but rollout.thinks is false; let the policy "
                    "think, or take an objective of paintings alone"
                )
        return self

    @model_validator(mode="after")
    def _window_fits(self) -> Self:
        for key, algorithm in self.objectives():
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
    def _panel_judges_otherwise(self) -> Self:
        held_out = None if self.panel is None else self.panel.reward
        if held_out is not None and judges_alike(held_out, self.reward):
            raise ValueError(
                "panel.reward judges as the training reward does, so that their gap is 0 whatever is hacked; give another "
                "verifier, or null for none"
            )
        for key, algorithm in self.objectives():
            if held_out is not None and isinstance(algorithm, Refl) and judges_by(held_out, algorithm.reward_model):
                raise ValueError(
                    f"panel.reward is {key}.reward_model, which ReFL climbs, so that it holds nothing out; give another "
                    "verifier, or null for none"
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
        if images == size and any("text" in algorithm.trains for _, algorithm in self.objectives()):
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
        for key, algorithm in self.objectives():
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


Config = Annotated[TrainConfig | SftConfig | RewardServiceConfig | RewardModelConfig | StudyConfig, Field(discriminator="task")]
