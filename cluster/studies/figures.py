"""Numbers of a study's report, worked out from its results: means with their intervals over runs, and differences of rows.

A run that diverged has no score: it is counted, and left out of means. Rows are compared run by run where both began from the
same start with the same seed, so that what start and seed do to both falls out of the difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any, Literal

from cluster.studies.result import Result
from configs.study import StudyConfig
from unigrpo.algo.intervals import t_interval

Scores = Mapping[str, Any]
RunKey = tuple[str, int | None]
"""Start and seed of a row's run."""
Runs = Mapping[RunKey, float]
"""A score of each run of a row."""


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A score over the runs of a row."""

    mean: float
    interval: tuple[float, float] | None
    """95 %, Student's t over runs; None for a single run."""
    runs: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One row less another, over the runs that they share."""

    above: str
    """The row that the paper has above, or the first of the table."""
    below: str
    paper: float | None
    """The paper's difference, of rows that it has both."""
    ours: Mean

    @property
    def verdict(self) -> Literal["above", "below", "undecided"]:
        """Where the first row stands; undecided where the interval holds 0, or there is none."""
        interval = self.ours.interval
        if interval is None or interval[0] <= 0 <= interval[1]:
            return "undecided"
        return "above" if interval[0] > 0 else "below"


def mean_of(values: Sequence[float]) -> Mean | None:
    """None for no value."""
    return Mean(mean=fmean(values), interval=t_interval(values), runs=len(values)) if values else None


def scored_modes(study: StudyConfig, results: Sequence[Result]) -> list[str]:
    """The modes that anything was evaluated in."""
    return [mode for mode in study.modes if any(mode in result.scores for result in results)]


def score_name(results: Sequence[Result], mode: str) -> str:
    """The headline score of a study in one mode."""
    return next(str(result.scores[mode]["headline"]["score"]) for result in results if mode in result.scores)


def value_of(scores: Scores, name: str) -> float | None:
    """A score by its name, `category:TAG` for the headline score of a category; None where an evaluation lacks it."""
    if name.startswith("category:"):
        category = scores["by_category"].get(name.removeprefix("category:"))
        return None if category is None else float(category[scores["headline"]["score"]])
    means = (
        scores["category_mean"] if scores["headline"]["over"] == "categories" and name in scores["category_mean"] else scores
    )
    return None if means.get(name) is None else float(means[name])


def values(results: Sequence[Result], row: str, mode: str, name: str, start: str | None = None) -> Runs:
    """The score of each run of a row that ended well; from one start, or from all."""
    found = {}
    for result in results:
        if result.row == row and mode in result.scores and start in (None, result.start):
            value = value_of(result.scores[mode], name)
            if value is not None:
                found[(result.start, result.seed)] = value
    return found


def difference(one: Runs, other: Runs) -> Mean | None:
    """Mean of `one` less `other` over the runs that they share; None where they share none.

    A row that trains nothing is the same for every seed of its start; and where it was evaluated once alone, for every run.
    """
    keys = sorted({*_seeded(one), *_seeded(other)} or {*one, *other}, key=str)
    pairs = dict.fromkeys((_partner(one, key), _partner(other, key)) for key in keys)
    return mean_of([one[left] - other[right] for left, right in pairs if left is not None and right is not None])


def differences(scores: Mapping[str, Runs], paper: Mapping[str, float]) -> list[Difference]:
    """Every two rows, the one that the paper has above (or that stands first) less the other.

    scores: row -> (start, seed) -> score. paper: row -> the paper's score, of rows that it has.
    """
    found = []
    for one, other in combinations(scores, 2):
        known = one in paper and other in paper
        above, below = (other, one) if known and paper[other] > paper[one] else (one, other)
        ours = difference(scores[above], scores[below])
        if ours is not None:
            distance = paper[above] - paper[below] if known else None
            found.append(Difference(above=above, below=below, paper=distance, ours=ours))
    return found


def _seeded(runs: Runs) -> list[RunKey]:
    return [key for key in runs if key[1] is not None]


def _partner(runs: Runs, key: RunKey) -> RunKey | None:
    """The run of a row that is compared with another row's run."""
    untrained = (key[0], None)
    alone = list(runs) if len(runs) == 1 and not _seeded(runs) else []
    return next((each for each in (key, untrained, *alone) if each in runs), None)
