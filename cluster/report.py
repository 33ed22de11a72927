"""What a person takes away: scores as a table, curves and pictures side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HEADLINE = {"strict": "strict", "graded": "graded", "geneval": "GenEval", "ground_truth_plan": "strict, ground-truth plan"}


def print_scores(scores: Mapping[str, Mapping[str, Any]]) -> None:
    """One column a policy, headline scores first, then the strict score of every category.

    The headline means are over prompts that neither fine-tuning nor training has seen; seen categories say so.
    """
    first = next(iter(scores.values()))
    caption = f"{'prompts seen in training' if first['seen'] else 'unseen prompts'}; categories are strict scores"
    table = Table("score", *scores, "prompts", "pictures", title=caption)
    for name, title in HEADLINE.items():
        if name in first:
            cells = [f"{row[name]:.3f}" for row in scores.values()]
            table.add_row(title, *cells, str(first["prompts"]), str(first["pictures"]))
    table.add_section()
    for tag, category in first["by_category"].items():
        cells = [f"{row['by_category'][tag]['strict']:.3f}" for row in scores.values()]
        seen = " (seen in training)" if category["seen"] else ""
        table.add_row(tag + seen, *cells, str(category["prompts"]), str(category["pictures"]))
    Console().print(table)


def plot_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Reward, clip fractions, gradient norms and mismatch over the steps, as one PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "reward": ["reward/mean", "reward/strict", "reward/group_std"],
        "clip fraction": ["text/clip_fraction", "flow/clip_fraction"],
        "gradient norm": ["grad_norm/text", "grad_norm/generation"],
        "mismatch": ["mismatch/text", "mismatch/flow"],
    }
    training = [row for row in rows if row["kind"] == "train"]
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7), layout="constrained")
    for axis, (title, names) in zip(axes.flat, panels.items(), strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in training if name in row]
            if points:
                axis.plot(*zip(*points, strict=True), label=name)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.legend()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
