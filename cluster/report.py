"""What a person takes away: scores as a table, curves and pictures side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

TITLES = {"geneval": "GenEval"}
"""What a score is called where that is not its own name."""


def print_scores(scores: Mapping[str, Mapping[str, Any]]) -> None:
    """One column a policy: every score overall with its 95 % interval, then the headline score of every category.

    Overall means are over prompts that neither fine-tuning nor training has seen; seen categories say so.
    """
    first = next(iter(scores.values()))
    name, over = first["headline"]["score"], first["headline"]["over"]
    flat = "prompts" if over == "prompts" else "pictures"
    sizes = str(first["prompts"]), str(first["pictures"])
    rows = [(_title(each), flat, *(_cell(row, each) for row in scores.values()), *sizes) for each in first["interval"]]
    by_category = (_title(name), "categories", *(_cell(row["category_mean"], name) for row in scores.values()), *sizes)
    rows.insert(0 if over == "categories" else len(rows), by_category)
    if "ground_truth_plan" in first:
        given = (_short(row["ground_truth_plan"]) for row in scores.values())
        rows.append((f"{_title(name)}, ground-truth plan", flat, *given, *sizes))
    categories = []
    for tag, category in first["by_category"].items():
        means = (_cell(row["by_category"][tag], name) for row in scores.values())
        title = tag + (" (seen)" if category["seen"] else "")
        categories.append((title, flat, *means, str(category["prompts"]), str(category["pictures"])))
    table = Table("score", "mean over", *map(escape, scores), "prompts", "pictures", title=escape(_caption(first)))
    for section in (rows, categories):
        for cells in section:
            table.add_row(*map(escape, cells))
        table.add_section()
    Console().print(table)


def headline_text(scores: Mapping[str, Any]) -> str:
    """The one score by which one speaks of an evaluation. Example: "strict .590 [.548, .632], mean over pictures"."""
    over = scores["headline"]["over"]
    means = scores["category_mean"] if over == "categories" else scores
    name = scores["headline"]["score"]
    return f"{_title(name)} {_cell(means, name)}, mean over {over}"


def _caption(scores: Mapping[str, Any]) -> str:
    least, most = scores["pictures_per_prompt"]
    each = str(least) if least == most else f"{least} to {most}"
    some_seen = any(category["seen"] for category in scores["by_category"].values())
    prompts = "prompts seen in training" if scores["seen"] else "unseen prompts" if some_seen else "all prompts"
    return f"{prompts}, pictures each: {each}; [ ]: 95 %; categories: {_title(scores['headline']['score'])}"


def _title(name: str) -> str:
    return TITLES.get(name, name)


def _cell(means: Mapping[str, Any], name: str) -> str:
    """A mean and its interval; a single prompt has none."""
    interval = means["interval"][name]
    return _short(means[name]) + (f" [{_short(interval[0])}, {_short(interval[1])}]" if interval else "")


def _short(number: float) -> str:
    return f"{number:.3f}".replace("0.", ".", 1) if 0 <= number < 0.9995 else f"{number:.3f}"


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
