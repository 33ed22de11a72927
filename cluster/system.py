"""A running system: every role placed, filled and ready, behind the few verbs of the loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray.actor import ActorHandle

from cluster import actors
from cluster.evaluation import Plan, evaluate, evaluation_sampling
from cluster.learners import LearnerGroup
from cluster.metrics import Metrics
from cluster.placement import connect
from cluster.prompts import PromptStream, load_prompts
from cluster.rollouts import Group, Rollouts, Sampling
from cluster.samples import write_samples
from cluster.statistics import rollout_statistics
from cluster.view import View
from configs.load import ConfigError, check_files, dump, model_folder, still_to_be_given
from configs.schema import EvaluationConfig, TrainConfig
from unigrpo.algo.flow import window_start
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.seeds import derive_seed
from unigrpo.shapes.plan import ground_truth_thought
from unigrpo.tokenizer import Tokenizer, load_tokenizer
from unigrpo.types import Prompt


@dataclass(frozen=True, kw_only=True)
class System:
    """What the loop drives."""

    config: TrainConfig
    learner: LearnerGroup
    rollouts: Rollouts
    prompts: PromptStream
    metrics: Metrics
    view: View
    tokenizer: Tokenizer

    def sampling(self, step: int) -> Sampling:
        """How `step` is sampled: one stochastic window for all of its samples."""
        config = self.config
        return Sampling(
            seed=config.seed,
            step=step,
            group_size=config.rollout.group_size,
            temperature=1.0,
            num_points=config.sampler.num_points,
            prompts_per_piece=config.rollout.prompts_per_piece,
            judge="training",
            window_start=window_start(config.seed, step, config.sampler.window_range, config.sampler.window_size),
        )

    def evaluate(self) -> dict[str, Any]:
        """Score the weights the rollout workers hold."""
        return evaluate_policy(self.rollouts, self.config, self.tokenizer)

    def record(self, step: int, groups_P: Sequence[Group], stats: dict[str, Any], seconds: dict[str, float]) -> None:
        """Write down what the step that led to `step` did."""
        row = {**rollout_statistics(groups_P, self.rollouts.tally), **stats, **seconds}
        self.metrics.log("train", step, row)
        self.view.step(step, row)
        if self.config.logging.samples_due(step):
            write_samples(
                self.config.run_dir / "samples" / f"step-{step:06d}",
                groups_P,
                limit=self.config.logging.samples,
                decode=self.tokenizer.decode,
                timeout=self.config.cluster.call_timeout,
            )


def build(config: TrainConfig, view: View) -> System:
    """Start every role of a training run. Raises ConfigError for what cannot run here, before anything trains."""
    tokenizer = prepare(config)
    connect(config.cluster)
    view.say("Ray is up; starting learner, reasoners, denoisers and reward actors")
    learner = actors.start_learner(config, view)
    rollouts = start_rollouts(config, tokenizer, view)
    return System(
        config=config,
        learner=learner,
        rollouts=rollouts,
        prompts=PromptStream(load_prompts(config.prompts), seed=config.seed, per_step=config.rollout.prompts_per_step),
        metrics=Metrics(config.run_dir),
        view=view,
        tokenizer=tokenizer,
    )
