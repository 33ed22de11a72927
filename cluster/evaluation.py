"""Scores of a policy on fixed prompts with fixed seeds: thoughts of its own, and thoughts that give the plan away."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cluster.faults import Unscored
from cluster.prompts import load_prompts
from cluster.rollouts import Group, Plan, Rollouts, Sampling
from configs.schema import TrainConfig
from unigrpo.seeds import derive_seed
from unigrpo.shapes.plan import draw_plan, write_trace
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.tokenizer import Tokenizer
from unigrpo.types import Prompt

SCORES = ("strict", "graded", "geneval")


def summarise(groups: Sequence[Group], is_seen: Callable[[Prompt], bool]) -> dict[str, Any]:
    """Mean scores over pictures: overall over the prompts that training cannot have seen, and by category with those it has.

    Where it has seen every prompt, the overall means are over all of them, and `seen` says so.
    """
    unseen = [group for group in groups if not is_seen(group.prompt)]
    by_tag: dict[str, list[Group]] = {}
    for group in groups:
        by_tag.setdefault(group.prompt.metadata["tag"], []).append(group)
    return {
        **_means(unseen or groups),
        "seen": not unseen,
        "by_category": {
            tag: {**_means(members), "seen": any(is_seen(group.prompt) for group in members)}
            for tag, members in sorted(by_tag.items())
        },
    }


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What an evaluation paints and how it is counted."""

    prompts: Sequence[Prompt]
    sampling: Sampling
    is_seen: Callable[[Prompt], bool]
    """Prompts whose scores say nothing of new ones; they stay out of the overall means unless there are no others."""
    plan: Plan | None
    """A right thought for each prompt, where the task knows one."""


def evaluate(rollouts: Rollouts, benchmark: Benchmark) -> tuple[dict[str, Any], list[Group]]:
    """Scores of the weights that are loaded, and the groups painted from thoughts of their own.

    With a plan, the strict score of pictures painted from it is reported as `ground_truth_plan`. Raises Unscored when a
    score failed: a mean over fewer pictures than asked would not be comparable.
    """
    own = _judged(rollouts, benchmark.prompts, benchmark.sampling)
    scores = summarise(own, benchmark.is_seen)
    if benchmark.plan is not None:
        given = _judged(rollouts, benchmark.prompts, replace(benchmark.sampling, plan=benchmark.plan))
        scores["ground_truth_plan"] = summarise(given, benchmark.is_seen)["strict"]
    return scores, own


def _judged(rollouts: Rollouts, prompts: Sequence[Prompt], sampling: Sampling) -> list[Group]:
    groups = rollouts.generate(prompts, sampling)
    if rollouts.tally.dropped:
        raise Unscored(
            f"{rollouts.tally.dropped} of {len(prompts)} prompts could not be judged; "
            "see the reward actor's log, then evaluate again"
        )
    return groups


def _means(groups: Sequence[Group]) -> dict[str, float | int]:
    breakdowns = [score.breakdown for group in groups for score in group.scores]
    means = {name: sum(float(row[name]) for row in breakdowns) / len(breakdowns) for name in SCORES if breakdowns}
    return {**means, "prompts": len(groups), "pictures": len(breakdowns)}


def benchmark(config: TrainConfig, tokenizer: Tokenizer) -> Benchmark:
    """The evaluation section of a config: deterministic painting, seeded thoughts, the same draws for every policy.

    Seen are the prompts the run trains on and, in the shapes world, those its fine-tuning saw.
    """
    evaluation = config.evaluation
    shapes = evaluation.prompts.kind == "shapes"
    seen = {prompt.text for prompt in load_prompts(config.prompts, config.reward)}
    if shapes:
        seen |= {prompt.text for prompt in shapes_prompts("train")}
    prompts = load_prompts(evaluation.prompts, config.evaluation_reward)
    samples_per_piece = config.rollout.prompts_per_piece * config.rollout.group_size

    def plan(prompt: Prompt, sibling: int) -> tuple[int, ...]:
        rng = np.random.default_rng(derive_seed(evaluation.seed, "plan", prompt.index, sibling))
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
        ),
        is_seen=lambda prompt: prompt.text in seen,
        plan=plan if shapes else None,
    )
