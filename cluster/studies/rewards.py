"""Which rewards the rows of a study were trained and watched with, as their results tell."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.studies.result import Result

TRAINING, HELD_OUT = "reward", "panel.reward"
"""Sections of a run's config."""
CLIMBED = "algorithm.reward_model."
"""Before the keys of the reward model that ReFL climbs, whatever `reward` scores beside it."""


def reward_of(result: Result, section: str = TRAINING) -> Mapping[str, Any]:
    """What decides a reward of a run, by dotted key; of the training reward with the model that is climbed."""
    prefixes = (f"{section}.", CLIMBED) if section == TRAINING else (f"{section}.",)
    return {key: value for key, value in result.config.items() if key.startswith(prefixes)}


def reward_text(result: Result, section: str = TRAINING) -> str:
    """Its kind, with the score that it takes where it has several. Example: "geneval graded"; "none"; of a run whose first
    stage climbs a reward model "differentiable, then geneval graded".
    """
    told = [result.config.get(f"{section}.{key}") for key in ("kind", "score")]
    text = " ".join(str(each) for each in told if each is not None) or "none"
    climbs_first = section == TRAINING and "then.algorithm.kind" in result.config and f"{CLIMBED}model" in result.config
    return f"differentiable, then {text}" if climbs_first else text


def shared_reward(results: Sequence[Result]) -> Mapping[str, Any] | None:
    """The training reward that most of the trained rows have; None where nothing was trained."""
    of_rows = {result.row: reward_of(result) for result in results if result.seed is not None}
    counted = Counter(tuple(sorted(each.items(), key=str)) for each in of_rows.values())
    return dict(counted.most_common(1)[0][0]) if counted else None
