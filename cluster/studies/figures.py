"""Numbers of a study's report, worked out from its results: means with their intervals, and differences of rows.

Runs of one start are never averaged with those of another: what is told of a row is of its first start, what began elsewhere is
a replication beside it. A run that diverged has no score: it is counted, and left out of means. Rows are compared run by run
where both have the same seed, so that what the seed does to both falls out of the difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    """95 %; None where one run says nothing of others."""
    runs: int
    over: Literal["runs", "prompts"] = "runs"
    """What the interval is over: Student's t over runs, or the bootstrap over prompts where a row's one run trains nothing."""


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
        if self.ours.interval is None:
            return "undecided"
        low, high = (
            round(bound, 9) for bound in self.ours.interval
        )  # equal scores differ by the rounding of their differences
        return "above" if low > 0 else "below" if high < 0 else "undecided"


def mean_of(values: Sequence[float]) -> Mean | None:
    """None for no value."""
    return Mean(mean=fmean(values), interval=t_interval(values), runs=len(values)) if values else None


def headline_mode(study: StudyConfig) -> str:
    """The mode by which rows are ranked."""
    return next(iter(study.modes))


def main_start(study: StudyConfig) -> str:
    """Where rows begin that name no start."""
    return next(iter(study.starts))


def first_start(study: StudyConfig, row: str) -> str:
    """Where the runs of a row began that stand for it."""
    return study.starts_of(study.rows[row])[0]


def label_of(study: StudyConfig, row: str) -> str:
    """A row with what sets it apart. Example: "bagel (from base)"."""
    start = first_start(study, row)
    apart = [*(["control"] if row == study.control else []), *([f"from {start}"] if start != main_start(study) else [])]
    return row + (f" ({', '.join(apart)})" if apart else "")


def of_first_starts(study: StudyConfig, results: Sequence[Result]) -> list[Result]:
    """The runs that stand for their rows."""
    return [result for result in results if result.start == first_start(study, result.row)]


def replications(study: StudyConfig, results: Sequence[Result]) -> dict[str, list[Result]]:
    """Start -> what began there, of starts that a row was trained from beside its first."""
    again = {each.start for each in results if each.seed is not None and each.start != first_start(study, each.row)}
    return {start: [each for each in results if each.start == start] for start in study.starts if start in again}


def baseline_of(study: StudyConfig) -> str | None:
    """The row that the others began from: the first that trains nothing, of the main start."""
    untrained = (name for name, row in study.rows.items() if not row.trains and first_start(study, name) == main_start(study))
    return next(untrained, None)


def scored_modes(study: StudyConfig, results: Sequence[Result]) -> list[str]:
    """The modes that anything was evaluated in."""
    return [mode for mode in study.modes if any(mode in result.scores for result in results)]


def score_name(results: Sequence[Result], mode: str) -> str:
    """The headline score of a study in one mode."""
    return next(str(result.scores[mode]["headline"]["score"]) for result in results if mode in result.scores)


def value_of(scores: Scores, name: str) -> float | None:
    """A score by its name; None where an evaluation lacks it.

    `category:TAG` is the headline score of a category, `category:TAG:NAME` another of its scores.
    """
    means, key = _told(scores, name)
    return None if means.get(key) is None else float(means[key])


def values(results: Sequence[Result], row: str, mode: str, name: str) -> Runs:
    """The score of each run of a row that ended well."""
    found = {}
    for result in results:
        if result.row == row and mode in result.scores:
            value = value_of(result.scores[mode], name)
            if value is not None:
                found[(result.start, result.seed)] = value
    return found


def row_mean(results: Sequence[Result], row: str, mode: str, name: str) -> Mean | None:
    """A row's score over its runs; one run that trained nothing has the interval over prompts that its evaluation gave."""
    found = values(results, row, mode, name)
    mean = mean_of(list(found.values()))
    if mean is None or len(found) > 1 or _seeded(found):
        return mean
    scores = next(each.scores[mode] for each in results if each.row == row and mode in each.scores)
    means, key = _told(scores, name)
    interval = means["interval"].get(key)
    return mean if interval is None else replace(mean, interval=(interval[0], interval[1]), over="prompts")


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


def _told(scores: Scores, name: str) -> tuple[Scores, str]:
    """The means that hold a score, and its key there."""
    if name.startswith("category:"):
        _, tag, *asked = name.split(":")
        return scores["by_category"].get(tag, {}), asked[0] if asked else str(scores["headline"]["score"])
    over_categories = scores["headline"]["over"] == "categories" and name in scores["category_mean"]
    return (scores["category_mean"] if over_categories else scores), name


def _seeded(runs: Runs) -> list[RunKey]:
    return [key for key in runs if key[1] is not None]


def _partner(runs: Runs, key: RunKey) -> RunKey | None:
    """The run of a row that is compared with another row's run."""
    untrained = (key[0], None)
    alone = list(runs) if len(runs) == 1 and not _seeded(runs) else []
    return next((each for each in (key, untrained, *alone) if each in runs), None)
