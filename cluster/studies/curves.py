"""Curves of a study: training reward and validation score over the steps, mean and spread over the runs of each row."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from cluster.studies.result import Result
from configs.study import StudyConfig

SMOOTHED = 10
"""Steps over which a training reward is averaged: that of one step is of a few prompts."""

Band = list[tuple[int, float, float, float]]
"""(step, mean, least, greatest) over runs."""


def band(curves: Sequence[Sequence[tuple[int, float]]]) -> Band:
    """Over the runs that have a value at a step."""
    by_step: dict[int, list[float]] = {}
    for curve in curves:
        for step, value in curve:
            by_step.setdefault(step, []).append(value)
    return [(step, fmean(found), min(found), max(found)) for step, found in sorted(by_step.items())]


def smoothed(curve: Sequence[tuple[int, float]], width: int = SMOOTHED) -> list[tuple[int, float]]:
    """Means of `width` steps each, fewer in the last, at the last of them."""
    cut = [curve[first : first + width] for first in range(0, len(curve), width)]
    return [(part[-1][0], fmean(value for _, value in part)) for part in cut]


def bands_of(study: StudyConfig, results: Sequence[Result]) -> Mapping[str, Mapping[str, Band]]:
    """Panel -> row -> its band; rows that train nothing have none."""
    panels: dict[str, dict[str, Band]] = {"training reward": {}, "validation": {}}
    for row in study.rows:
        curves = [result.curves for result in results if result.row == row]
        reward = [smoothed(each["reward"]) for each in curves if each["reward"]]
        validation = [each["validation"] for each in curves if each["validation"]]
        for panel, found in (("training reward", reward), ("validation", validation)):
            if found:
                panels[panel][row] = band(found)
    return panels


def plot_study(study: StudyConfig, results: Sequence[Result], path: Path) -> None:
    """Both panels as one PNG; the shade reaches from the least to the greatest run."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    palette = colormaps["tab20"]
    colors = {row: palette(number % palette.N) for number, row in enumerate(study.rows)}
    figure = Figure(figsize=(13, 5), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, (panel, rows) in zip(axes, bands_of(study, results).items(), strict=True):
        for row, points in rows.items():
            steps, means, least, greatest = zip(*points, strict=True)
            axis.plot(steps, means, label=row, color=colors[row])
            axis.fill_between(steps, least, greatest, color=colors[row], alpha=0.15, linewidth=0)
        axis.set_title(panel)
        axis.set_xlabel("step")
    axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=110)
