"""Scores of a policy on fixed prompts with fixed seeds: thoughts of its own, and thoughts that give the plan away."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cluster.rollouts import Group, Plan, Rollouts, Sampling
from configs.schema import EvaluationConfig
from unigrpo.shapes.prompts import is_unseen
from unigrpo.types import Prompt

SCORES = ("strict", "graded", "geneval")


def evaluation_sampling(config: EvaluationConfig, prompts_per_piece: int) -> Sampling:
    """Deterministic painting and seeded thoughts, the same draws for every policy."""
    return Sampling(
        seed=config.seed,
        step=0,
        group_size=config.images_per_prompt,
        temperature=config.temperature,
        num_points=config.num_points,
        prompts_per_piece=prompts_per_piece,
        judge="evaluation",
    )


def summarise(groups: Sequence[Group]) -> dict[str, Any]:
    """Mean scores over pictures: overall over the prompts that training cannot have seen, and by category with those it has."""
    unseen = [group for group in groups if is_unseen(group.prompt)]
    by_tag: dict[str, list[Group]] = {}
    for group in groups:
        by_tag.setdefault(group.prompt.metadata["tag"], []).append(group)
    return {
        **_means(unseen),
        "by_category": {
            tag: {**_means(members), "seen": not all(is_unseen(group.prompt) for group in members)}
            for tag, members in sorted(by_tag.items())
        },
    }


def evaluate(rollouts: Rollouts, prompts: Sequence[Prompt], sampling: Sampling, plan: Plan | None) -> dict[str, Any]:
    """Scores with own thoughts and, where `plan` knows a right thought for a prompt, with that one given (strict only).

    Raises RuntimeError when a score failed: a mean over fewer pictures than asked would not be comparable.
    """
    own = _judged(rollouts, prompts, sampling)
    result = {**summarise(own), "temperature": sampling.temperature, "num_points": sampling.num_points}
    if plan is not None:
        given = _judged(rollouts, prompts, replace(sampling, plan=plan))
        result["ground_truth_plan"] = summarise(given)["strict"]
    return result


def _judged(rollouts: Rollouts, prompts: Sequence[Prompt], sampling: Sampling) -> list[Group]:
    groups = rollouts.generate(prompts, sampling)
    if rollouts.tally.dropped:
        raise RuntimeError(
            f"{rollouts.tally.dropped} of {len(prompts)} prompts could not be judged; see the reward actor's log, then evaluate again"
        )
    return groups


def _means(groups: Sequence[Group]) -> dict[str, float | int]:
    breakdowns = [score.breakdown for group in groups for score in group.scores]
    means = {name: sum(float(row[name]) for row in breakdowns) / len(breakdowns) for name in SCORES if breakdowns}
    return {**means, "prompts": len(groups), "pictures": len(breakdowns)}
