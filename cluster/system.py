"""A running system: every role placed, filled and ready, behind the few verbs of the loop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cluster.alarms import alarms
from cluster.evaluation import benchmark, evaluate
from cluster.judging import Judges
from cluster.learners import LearnerGroup
from cluster.metrics import WALL_CLOCK, Clock, Metrics
from cluster.panel import Panel, panel_of
from cluster.panel_plot import plot_panel
from cluster.pieces import Sampling
from cluster.placement import Role
from cluster.prompts import PromptStream, load_prompts, plain_ids, system_spans
from cluster.roles import denoiser_role, learner_role, part_role, reasoner_role, reward_roles
from cluster.rollouts import Group, Rollouts
from cluster.samples import spread, write_samples
from cluster.statistics import rollout_statistics
from cluster.view import View
from cluster.workers import Handles, Workers, describe_denoisers, join_ranks
from configs.algorithms import FlowTerm
from configs.reward import Reward, parts_of
from configs.schema import TrainConfig
from unigrpo.tokenizer import Tokenizer


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
    panel: Panel | None = None
    """Where reward hacking is watched."""

    def sampling(self, step: int) -> Sampling:
        """How `step` is sampled, and what its paintings leave for the learner."""
        config = self.config
        algorithm = config.algorithm
        return Sampling(
            seed=config.seed,
            step=step,
            group_size=config.rollout.group_size,
            temperature=1.0,
            num_points=config.sampler.num_points,
            prompts_per_piece=config.rollout.prompts_per_piece,
            judge="training",
            thinks=config.rollout.thinks,
            images_per_thought=config.rollout.images_per_thought,
            leaves_trajectories="generation" in config.trains,
            window=algorithm.window,
            guidance=algorithm.guidance if isinstance(algorithm, FlowTerm) else None,
        )

    def evaluate(self, step: int) -> None:
        """Score the weights the rollout workers hold; write down scores and pictures."""
        asked, clock = benchmark(self.config, self.tokenizer), Clock(self.view.stage)
        with clock("evaluation"):
            scores, groups = evaluate(self.rollouts, asked)
        self.metrics.log("evaluation", step, scores | clock.seconds)
        means = "  ".join(f"{name} {value:.3f}" for name, value in scores.items() if isinstance(value, float))
        if "unscored" in scores:
            means = f"no means, {scores['unscored']} of {len(asked.prompts)} prompts could not be judged"
        self.view.say(f"evaluation of step {step}: {means}")
        if groups:
            self._show(f"evaluation-{step:06d}", spread(groups, self.config.logging.samples // len(groups[0].scores)))

    def inspect(self, step: int) -> None:
        """Look for reward hacking in the weights the rollout workers hold; write down, tell and plot what was measured."""
        assert self.panel is not None, "the config asks for it"
        clock, run_dir, thresholds = Clock(), self.config.run_dir, self.panel.config.thresholds.model_dump()
        with clock("panel"):
            row, groups = self.panel.inspect(self.rollouts, self.sampling(0), self.view.stages)
        start = next(iter(self.panel.rows(run_dir)), row | {"step": step})
        raised, lines = alarms(row, start, self.config, thresholds)
        self.metrics.log("panel", step, {"name": self.panel.name, **row, **raised, **clock.seconds})
        told = "  ".join(f"{name} {value:.3g}" for name, value in row.items())
        self.view.say(f"panel of step {step}, compared with step {start['step']}: {told}")
        for line in lines:
            self.view.say(f"ALARM at step {step}: {line}")
        if rows := self.panel.rows(run_dir):
            plot_panel(rows, thresholds, run_dir / "panel.png")
        if groups:
            self._show(f"panel-{step:06d}", spread(groups, self.config.logging.samples // len(groups[0].scores)))

    def record(self, step: int, groups_P: Sequence[Group], stats: dict[str, Any], seconds: dict[str, float]) -> None:
        """Write down what the step that led to `step` did."""
        busy = {WALL_CLOCK + name: seconds for name, seconds in self.rollouts.seconds().items()}
        versions = self.rollouts.judges["training"].versions
        row = rollout_statistics(groups_P, self.rollouts.tally, self.config.reward, versions) | stats | seconds | busy
        self.metrics.log("train", step, row)
        self.view.step(step, row)
        if self.config.logging.samples_due(step):
            self._show(f"step-{step:06d}", groups_P)

    def _show(self, name: str, groups: Sequence[Group]) -> None:
        write_samples(
            self.config.run_dir / "samples" / name,
            groups,
            limit=self.config.logging.samples,
            decode=self.tokenizer.decode,
            timeout=self.config.cluster.call_timeout,
        )


def build(config: TrainConfig, tokenizer: Tokenizer, view: View, workers: Workers) -> System:
    """A training run on `workers`: those missing are started, the others rebuilt for it.

    Raises ConfigError for what cannot run here, before anything trains.
    """
    roles = training_roles(config)
    if missing := workers.missing(roles):
        view.say(f"starting {', '.join(missing)} (half a minute)")
    handles = workers.serve(roles, config.cluster)
    view.say(f"learner: {join_ranks(handles['learner'], config.cluster)}")
    judges = {role: judges_of(role, reward, handles, view) for role, reward in rewards_of(config).items()}
    by_purpose = {"training": judges["reward"], "evaluation": judges.get("evaluation.reward", judges["reward"])}
    if "panel.reward" in judges:
        by_purpose["panel"] = judges["panel.reward"]
    return System(
        config=config,
        learner=LearnerGroup(handles["learner"], timeout=config.cluster.call_timeout, reward=config.reward),
        rollouts=rollouts_of(config, handles, by_purpose, tokenizer, view),
        prompts=PromptStream(
            load_prompts(config.prompts, config.reward), seed=config.seed, per_step=config.rollout.prompts_per_step
        ),
        metrics=Metrics(config.run_dir),
        view=view,
        tokenizer=tokenizer,
        panel=panel_of(config),
    )


def rewards_of(config: TrainConfig) -> dict[str, Reward]:
    """What judges a run, by config section: evaluations and the panel have judges of their own where the config says so."""
    rewards = {"reward": config.reward}
    if config.evaluation.every is not None and config.evaluation.reward is not None:
        rewards["evaluation.reward"] = config.evaluation.reward
    if config.panel is not None and config.panel.reward is not None:
        rewards["panel.reward"] = config.panel.reward
    return rewards


def training_roles(config: TrainConfig) -> list[Role]:
    """Everyone a training run needs; no reasoners where nothing is thought."""
    thinks = config.rollout.thinks or (config.evaluation.every is not None and config.evaluation_thinks)
    return [learner_role(config), *rollout_roles(config, rewards_of(config), thinks=thinks)]


def rollout_roles(config: TrainConfig, rewards: Mapping[str, Reward], *, thinks: bool) -> list[Role]:
    """Reasoners, if the policy thinks, denoisers and the judges of `rewards`, by the config section of each."""
    judges = [role for name, reward in rewards.items() for role in reward_roles(name, reward)]
    return [*([reasoner_role(config)] if thinks else []), denoiser_role(config), *judges]


def judges_of(role: str, reward: Reward, workers: Handles, view: View) -> Judges:
    """The started reward actors of one reward."""
    parts = parts_of(reward)
    handles = {part: workers[part_role(role, part, parts)] for part in parts}
    return Judges(role=role, reward=reward, workers=handles, say=view.say)


def rollouts_of(
    config: TrainConfig,
    workers: Handles,
    judges: Mapping[str, Judges],
    tokenizer: Tokenizer,
    view: View,
) -> Rollouts:
    """The started workers as one; `judges` by Sampling.judge."""
    view.say(f"denoiser: {describe_denoisers(workers['denoiser'], config.cluster)}")
    return Rollouts(
        config,
        reasoners=workers.get("reasoner", ()),
        denoisers=workers["denoiser"],
        judges=judges,
        encode=partial(plain_ids, tokenizer=tokenizer),
        system=system_spans(config.model.system_prompt, tokenizer),
        timeout=config.cluster.call_timeout,
        watch=view.stages,
    )
