"""Curves of a study: training reward and validation score over the steps, over each row's runs of its first start."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from cluster.studies.figures import headline_mode, of_first_starts
from cluster.studies.result import Result
from cluster.studies.rewards import reward_of, reward_text, shared_reward
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


def bands_of(study: StudyConfig, results: Sequence[Result]) -> tuple[Mapping[str, Band], Mapping[str, Band]]:
    """Row -> band of its training reward, where rows share one, and of its validation score; of rows that train."""
    own = of_first_starts(study, results)
    shared = shared_reward(own)
    training, validation = {}, {}
    for row in study.rows:
        mine = [result for result in own if result.row == row]
        if rewards := [smoothed(each.curves["reward"]) for each in mine if each.curves["reward"] and reward_of(each) == shared]:
            training[row] = band(rewards)
        if scores := [each.curves["validation"] for each in mine if each.curves["validation"]]:
            validation[row] = band(scores)
    return training, validation


def titles_of(study: StudyConfig, results: Sequence[Result]) -> tuple[str, str]:
    """What each plot shows."""
    own = of_first_starts(study, results)
    shared = shared_reward(own)
    reward = next((reward_text(each) for each in own if each.seed is not None and reward_of(each) == shared), "none")
    return f"training reward ({reward}), means of {SMOOTHED} steps", f"validation score, {headline_mode(study)}"


def curves_line(study: StudyConfig, results: Sequence[Result]) -> str:
    """What the plots leave out, and what lines and shades are."""
    training, validation = bands_of(study, results)
    apart = [row for row in validation if row not in training]
    others = f" Rows trained on other rewards stand in the second plot alone: {', '.join(apart)}." if apart else ""
    return (
        "Lines are means over the runs from each row's first start, shades reach from the least to the greatest, the "
        f"control is dashed. Validation is in mode {headline_mode(study)}, on the prompts kept for choosing.{others}"
    )


def plot_study(study: StudyConfig, results: Sequence[Result], path: Path) -> None:
    """Both plots as one PNG; the rows in the order of their last validation score."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    bands = bands_of(study, results)
    palette = colormaps["tab10"]
    trained = [row for row in study.rows if row in bands[1] or row in bands[0]]
    colors = {row: palette(number % palette.N) for number, row in enumerate(trained)}
    figure = Figure(figsize=(14, 5.5), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, rows, title in zip(axes, bands, titles_of(study, results), strict=True):
        for row, points in sorted(rows.items(), key=lambda item: -item[1][-1][1]):
            steps, means, least, greatest = zip(*points, strict=True)
            style = {"color": colors[row], "linestyle": "--" if row == study.control else "-"}
            axis.plot(steps, means, label=row, marker=".", **style)
            axis.fill_between(steps, least, greatest, color=colors[row], alpha=0.1, linewidth=0)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if rows:
            axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=110)
