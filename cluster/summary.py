"""Judged pictures to mean scores with their intervals: overall, by category, and over categories.

Which partial scores there are, the breakdowns say; which of them counts, and over what it is averaged, the reward's kind.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from configs.reward import CombinedReward, Reward
from configs.verifiers import ExamReward, GenevalReward, HttpReward, PythonReward
from unigrpo.algo.bootstrap import Floats, mean_of_strata, percentile_interval, resampled_means
from unigrpo.seeds import derive_seed
from unigrpo.types import Prompt, Score

UNTAGGED = "untagged"
"""Category of prompts whose metadata have no tag."""
BREAKDOWN = "breakdown/"
"""Put before a part of a breakdown whose name is taken."""
ROW = frozenset(
    {"kind", "step", "evaluated", "benchmark", "versions", "unscored", "prompts", "pictures", "pictures_per_prompt", "headline"}
    | {"value", "interval", "seen", "category_mean", "categories", "by_category", "ground_truth_plan"}
)
"""What an evaluation row says beside the scores, and how it calls a score that has no name of its own."""


class Judged(Protocol):
    """The judged pictures of one prompt, whoever painted them."""

    @property
    def prompt(self) -> Prompt: ...
    @property
    def scores(self) -> Sequence[Score]:
        """One a picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """How the scores of a reward are told. Example: GenEval on photographs -> headlines ("geneval", ...), over "categories"."""

    value: str | None
    """What Score.value is called; None where it is one of the breakdown's own."""
    headlines: tuple[str, ...]
    """What stands first; the first of them is the score by which one speaks of the whole."""
    over: Literal["pictures", "prompts", "categories"]
    """What that score is averaged over, each counting the same."""


def scoring(reward: Reward) -> Scoring:
    """How a reward's scores are told; GenEval's overall score is the mean over its categories (arXiv:2310.11513)."""
    match reward:
        case GenevalReward(detector="mask2former"):
            return Scoring(value=None, headlines=("geneval", "strict", "graded"), over="categories")
        case GenevalReward():
            return Scoring(value=None, headlines=("strict", "graded", "geneval"), over="pictures")
        case ExamReward():
            return Scoring(value="exam", headlines=("exam",), over="prompts")
        case CombinedReward(parts=parts):
            return Scoring(value="value", headlines=("value", *parts), over="pictures")
        case HttpReward() | PythonReward():
            return Scoring(value="value", headlines=("value",), over="pictures")
        case other:
            return Scoring(value=other.kind, headlines=(other.kind,), over="pictures")


def category(prompt: Prompt) -> str:
    """Its tag, as GenEval calls it."""
    return str(prompt.metadata.get("tag", UNTAGGED))


def told_as(name: str, taken: Set[str]) -> str:
    """How a part of a breakdown is called where the names in `taken` mean something else; a verifier may use any name.

    Different parts are called differently. Example: "mean" -> "breakdown/mean".
    """
    counts = name.startswith(("scores/", "groups/"))  # what was asked of judges
    return BREAKDOWN + name if name in taken or counts or name.startswith(BREAKDOWN) else name


def numbers(score: Score, value: str | None) -> dict[str, float]:
    """The partial scores of one picture by the names they have in a row, and its value by that name."""
    parts = {told_as(name, ROW): float(part) for name, part in score.breakdown.items() if not isinstance(part, str)}
    return parts if value is None else {**parts, value: score.value}


def summarise(groups: Sequence[Judged], *, is_seen: Callable[[Prompt], bool], scoring: Scoring, seed: int) -> dict[str, Any]:
    """Mean scores with 95 % intervals: overall over the prompts that training cannot have seen, and by category with those too.

    Where it has seen every prompt, the overall means are over all of them, and `seen` says so. Flat names are means over
    pictures, or over prompts where the scoring says so; `category_mean` is the plain mean over the categories' means. A score
    is reported when every picture has it. seed: of the resamples, the same for equal prompts.
    """
    unseen = [group for group in groups if not is_seen(group.prompt)]
    names = _common_names(groups, scoring)
    by_category: dict[str, list[Judged]] = {}
    for group in groups:
        by_category.setdefault(category(group.prompt), []).append(group)
    rows = {tag: _Row.of(by_category[tag], names, scoring, derive_seed(seed, "bootstrap", tag)) for tag in sorted(by_category)}
    counted = unseen or groups
    strata = [
        _Row.of(members, names, scoring, derive_seed(seed, "bootstrap", tag))
        for tag in sorted(by_category)
        if (members := [group for group in by_category[tag] if not unseen or not is_seen(group.prompt)])
    ]
    pictures = [len(group.scores) for group in counted]
    return {
        **_Row.of(counted, names, scoring, derive_seed(seed, "bootstrap")).told(names),
        "pictures_per_prompt": [min(pictures), max(pictures)],
        "headline": {"score": scoring.headlines[0], "over": scoring.over},
        "seen": not unseen,
        "category_mean": _over_categories(strata).told(names) | {"categories": len(strata)},
        "by_category": {
            tag: {**row.told(names), "seen": any(is_seen(group.prompt) for group in by_category[tag])}
            for tag, row in rows.items()
        },
    }


def headline(scores: dict[str, Any]) -> float:
    """The one score by which one speaks of a summary."""
    means = scores["category_mean"] if scores["headline"]["over"] == "categories" else scores
    return float(means[scores["headline"]["score"]])


@dataclass(frozen=True, slots=True)
class _Row:
    """Means of some prompts, and of their resamples (None where a single prompt says nothing of others)."""

    mean_K: Floats
    resampled_BK: Floats | None
    prompts: int
    pictures: int

    @classmethod
    def of(cls, groups: Sequence[Judged], names: Sequence[str], scoring: Scoring, seed: int) -> "_Row":
        told_P = [[numbers(score, scoring.value) for score in group.scores] for group in groups]
        totals_PK = np.array([[sum(each[name] for each in told) for name in names] for told in told_P])
        pictures_P = np.array([len(told) for told in told_P], dtype=np.float64)
        counts_P = pictures_P
        if scoring.over == "prompts":
            totals_PK, counts_P = totals_PK / pictures_P[:, None], np.ones(len(groups))
        resampled = resampled_means(totals_PK, counts_P, rng=np.random.default_rng(seed)) if len(groups) > 1 else None
        return cls(totals_PK.sum(0) / counts_P.sum(), resampled, len(groups), int(pictures_P.sum()))

    def told(self, names: Sequence[str]) -> dict[str, Any]:
        """The means by name, their intervals, and what they are over."""
        means = {name: float(mean) for name, mean in zip(names, self.mean_K, strict=True)}
        intervals = [None] * len(names) if self.resampled_BK is None else percentile_interval(self.resampled_BK)
        bounds = {name: bound and list(bound) for name, bound in zip(names, intervals, strict=True)}
        return {**means, "interval": bounds, "prompts": self.prompts, "pictures": self.pictures}


def _over_categories(strata: Sequence[_Row]) -> _Row:
    resampled = [row.resampled_BK for row in strata if row.resampled_BK is not None]
    return _Row(
        np.mean([row.mean_K for row in strata], axis=0),
        mean_of_strata(resampled) if len(resampled) == len(strata) else None,
        sum(row.prompts for row in strata),
        sum(row.pictures for row in strata),
    )


def _common_names(groups: Sequence[Judged], scoring: Scoring) -> list[str]:
    """Scores that every picture has, headlines first."""
    found = [numbers(score, scoring.value) for group in groups for score in group.scores]
    common = [name for name in found[0] if all(name in each for each in found)]
    ranks = {name: rank for rank, name in enumerate(scoring.headlines)}
    return sorted(common, key=lambda name: ranks.get(name, len(ranks)))
