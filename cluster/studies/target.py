"""The figure that the project set itself for the shapes world, and whether a study reaches it."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.studies.cells import mean_cell, short, signed
from cluster.studies.figures import difference, row_mean, values
from cluster.studies.result import Result
from configs.study import StudyConfig


@dataclass(frozen=True, kw_only=True)
class Target:
    """One row is to stand so far above another, with 95 % intervals that do not overlap."""

    above: str
    below: str
    mode: str
    score: str
    least: float


TARGET = Target(above="unigrpo", below="sft", mode="think", score="strict", least=0.20)


def target_line(study: StudyConfig, results: Sequence[Result], target: Target = TARGET) -> str | None:
    """Target, figures and verdict; None for a study that is not about it, and where one of its two rows has no score yet."""
    told = [row_mean(results, row, target.mode, target.score) for row in (target.above, target.below) if row in study.rows]
    if len(told) < 2 or None in told:
        return None
    above, below = (each for each in told if each is not None)
    gain = difference(*(values(results, row, target.mode, target.score) for row in (target.above, target.below)))
    assert gain is not None, "a row that trains nothing is compared with every run"
    asked = f"{target.above} - {target.below} at least {signed(target.least)} in {target.score}, {target.mode}"
    if above.interval is None or below.interval is None:
        verdict = "open, as one run has no interval"
    elif round(gain.mean, 9) < target.least:
        verdict = f"missed by {short(target.least - gain.mean)}"
    else:
        verdict = "reached" if above.interval[0] > below.interval[1] else "missed, as they overlap"
    figures = f"{signed(gain.mean)}, {mean_cell(above)} against {mean_cell(below)}"
    return f"Target ({asked}, with intervals that do not overlap): **{verdict}**: {figures}."
