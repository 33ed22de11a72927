"""The measures of a run's panels over its steps, each between the bounds that it may not leave, as one PNG."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from cluster.alarms import MEASURES, all_bounds

COLUMNS = 4


def plot_panel(rows: Sequence[Mapping[str, Any]], thresholds: Mapping[str, float | None], path: Path) -> None:
    """Write panel.png: scores in the first plot, then each measure that was taken, its bounds dashed, its alarms as crosses.

    rows: those of one run, measured panels alone, in order; bounds follow from the first.
    """
    from matplotlib.figure import Figure  # not pyplot, whose figures belong to one thread: a study runs several

    measured = [name for name in MEASURES if name in rows[0]]
    lines = -(-(len(measured) + 1) // COLUMNS)
    figure = Figure(figsize=(4.5 * COLUMNS, 3.2 * lines))
    axes = figure.subplots(lines, COLUMNS, squeeze=False)
    figure.subplots_adjust(left=0.04, right=0.99, bottom=0.08, top=0.94, hspace=0.35)  # a fitted layout draws everything twice
    scores, *others = axes.flat
    for name in ("score", "held_out_score"):
        if name in rows[0]:
            scores.plot([row["step"] for row in rows], [row[name] for row in rows], marker=".", label=name)
    scores.set_title("training score and held-out score", fontsize="small")
    scores.legend()
    limits = all_bounds(rows[0], thresholds)
    for name, axis in zip(measured, others, strict=False):
        axis.plot([row["step"] for row in rows], [row[name] for row in rows], marker=".")
        alarms = [row for row in rows if row.get(f"alarm/{name}")]
        axis.plot([row["step"] for row in alarms], [row[name] for row in alarms], "rx", markersize=10)
        bounds = limits.get(name)
        for limit in () if bounds is None else (bounds.low, bounds.high):
            if isfinite(limit):
                axis.axhline(limit, color="red", linestyle="--", linewidth=1)
        axis.set_title(f"{name}: {MEASURES[name].title}", fontsize="small")
    for axis in others[len(measured) :]:
        axis.set_visible(False)
    for axis in axes.flat:
        axis.set_xlabel("step")
    figure.savefig(path, dpi=100)
