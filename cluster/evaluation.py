"""Scores of a policy on fixed prompts with fixed seeds: thoughts of its own (or none), and thoughts that give the plan away."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.judging import Tally
from cluster.pieces import Plan, Sampling
from cluster.prompts import asked, load_prompts
from cluster.rollouts import Group, Rollouts, Unjudged
from cluster.statistics import judging_statistics
from cluster.summary import Judged, Scoring, headline, scoring, summarise
from configs.schema import FilePrompts, TrainConfig
from configs.verifiers import RandomReward
from unigrpo.seeds import derive_seed
from unigrpo.shapes.plan import draw_plan, write_trace
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.tokenizer import Tokenizer
from unigrpo.types import Prompt


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What an evaluation paints and how it is counted."""

    prompts: Sequence[Prompt]
    sampling: Sampling
    is_seen: Callable[[Prompt], bool]
    """Prompts whose scores say nothing of new ones; they stay out of the overall means unless there are no others."""
    scoring: Scoring
    """How the judge's scores are told."""
    plan: Plan | None
    """A right thought for each prompt, where the task knows one and the policy thinks."""

    def summary(self, groups: Sequence[Judged]) -> dict[str, Any]:
        """Mean scores of judged groups."""
        return summarise(groups, is_seen=self.is_seen, scoring=self.scoring, seed=self.sampling.seed)


def evaluate(
    rollouts: Rollouts, benchmark: Benchmark, painted: Callable[[Unjudged], None] | None = None
) -> tuple[dict[str, Any], list[Group]]:
    """Scores of the weights that are loaded with what was asked of judges, and the judged groups of thoughts of their own.

    With a plan, the headline score of pictures painted from it is reported as `ground_truth_plan`. Where a score failed,
    `unscored` says of how many prompts and there are no means: over fewer pictures than asked they would not be comparable.
    `painted` is handed the groups of thoughts of their own (Rollouts.generate).
    """
    own, given = rollouts.generate(benchmark.prompts, benchmark.sampling, painted), None
    tally = rollouts.tally
    if benchmark.plan is not None and not tally.dropped:
        given = rollouts.generate(benchmark.prompts, replace(benchmark.sampling, plan=benchmark.plan))
        tally = Tally(**{name: number + getattr(rollouts.tally, name) for name, number in asdict(tally).items()})
    asked = judging_statistics(tally, rollouts.judges[benchmark.sampling.judge].versions)
    if tally.dropped:
        return {"unscored": tally.dropped, **asked}, own
    scores = benchmark.summary(own)
    if given is not None:
        scores["ground_truth_plan"] = headline(benchmark.summary(given))
    return {**scores, **asked}, own


def seen_by(config: TrainConfig) -> Callable[[Prompt], bool]:
    """Whether training saw a prompt: those the run trains on, where its config names them, and, in an evaluation on the shapes
    world, those its fine-tuning saw.
    """
    seen: set[tuple[str, Path | None]] = set()
    unknown = isinstance(config.prompts, FilePrompts) and (config.prompts.path is None or forgotten_prompts(config))
    if not unknown:
        seen |= {asked(prompt) for prompt in load_prompts(config.prompts, RandomReward())}  # whatever judged them in training
    if config.evaluation.prompts.kind == "shapes":
        seen |= {asked(prompt) for prompt in shapes_prompts("train")}
    return lambda prompt: asked(prompt) in seen


def forgotten_prompts(config: TrainConfig) -> Path | None:
    """The file of the prompts that the run trains on, if it is not here (another machine): none of them count as seen."""
    path = config.prompts.path if isinstance(config.prompts, FilePrompts) else None
    return None if path is None or path.exists() else path


def benchmark(config: TrainConfig, tokenizer: Tokenizer) -> Benchmark:
    """The evaluation section of a config: deterministic painting, seeded thoughts, the same draws for every policy."""
    evaluation = config.evaluation
    shapes = evaluation.prompts.kind == "shapes"
    prompts = load_prompts(evaluation.prompts, config.evaluation_reward)
    samples_per_piece = config.rollout.prompts_per_piece * config.rollout.group_size

    def plan(prompt: Prompt, number: int) -> tuple[int, ...]:
        rng = np.random.default_rng(derive_seed(evaluation.seed, "plan", prompt.index, number))
        return tokenizer.encode(write_trace(draw_plan(prompt.metadata, rng)))

    return Benchmark(
        prompts=prompts,
        sampling=Sampling(
            seed=evaluation.seed,
            step=0,
            group_size=evaluation.images_per_prompt,
            temperature=evaluation.temperature,
            num_points=evaluation.num_points,
            prompts_per_piece=max(1, samples_per_piece // evaluation.images_per_prompt),
            judge="evaluation",
            thinks=config.evaluation_thinks,
            guidance=evaluation.guidance,
        ),
        is_seen=seen_by(config),
        scoring=scoring(config.evaluation_reward),
        plan=plan if shapes and config.evaluation_thinks else None,
    )
