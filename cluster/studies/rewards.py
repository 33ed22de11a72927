"""Which rewards the rows of a study were trained and watched with, as their results tell."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.studies.result import Result

TRAINING, HELD_OUT = "reward", "panel.reward"
"""Sections of a run's config."""


def reward_of(result: Result, section: str = TRAINING) -> Mapping[str, Any]:
    """What decides a reward of a run, by dotted key."""
    return {key: value for key, value in result.config.items() if key.startswith(f"{section}.")}


def reward_text(result: Result, section: str = TRAINING) -> str:
    """Its kind, with the score that it takes where it has several. Example: "geneval graded"; "none"."""
    told = [result.config.get(f"{section}.{key}") for key in ("kind", "score")]
    return " ".join(str(each) for each in told if each is not None) or "none"


def shared_reward(results: Sequence[Result]) -> Mapping[str, Any] | None:
    """The training reward that most of the trained rows have; None where nothing was trained."""
    of_rows = {result.row: reward_of(result) for result in results if result.seed is not None}
    counted = Counter(tuple(sorted(each.items(), key=str)) for each in of_rows.values())
    return dict(counted.most_common(1)[0][0]) if counted else None
