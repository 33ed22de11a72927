"""How a study's page writes numbers and tables in Markdown."""

import math
from collections.abc import Iterator, Sequence

from cluster.studies.figures import Mean

NONE = "–"
OVER_PROMPTS = "†"
"""After an interval that is not over runs."""


def table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *body)]


def folded(title: str, lines: Sequence[str]) -> Iterator[str]:
    """Lines that are seen where the title is clicked."""
    yield from (f"<details><summary>{title}</summary>", "", *lines, "", "</details>")


def mean_cell(mean: Mean | None) -> str:
    """Example: .743 [.701, .785]; with a dagger where the interval is over prompts; .743 where there is none."""
    return NONE if mean is None else short(mean.mean) + _interval(mean, "") + (OVER_PROMPTS if mean.over == "prompts" else "")


def gain_cell(mean: Mean | None) -> str:
    """Example: +.200 [+.120, +.280]."""
    return NONE if mean is None else signed(mean.mean) + _interval(mean, "+")


def range_cell(bounds: tuple[float, float] | None) -> str:
    """Example: .701 to .785; none where equal runs say nothing of the next."""
    return NONE if bounds is None or _equal(bounds) else f"{short(bounds[0])} to {short(bounds[1])}"


def signed(number: float | None) -> str:
    """Example: +.743."""
    return short(number, "+")


def short(number: float | None, sign: str = "") -> str:
    """Example: .743; -.012; 1.000; with a sign +.743."""
    if number is None:
        return NONE
    text = f"{round(number, 3) + 0.0:{sign}.3f}"  # + 0.0 makes -0 a plain 0
    return text.replace("0.", ".", 1) if abs(number) < 0.9995 else text


def _interval(mean: Mean, sign: str) -> str:
    if mean.interval is None:
        return ""
    if mean.over == "runs" and _equal(mean.interval):
        return f" (equal in {mean.runs} runs)"
    low, high = (short(bound, sign) for bound in mean.interval)
    return f" [{low}, {high}]"


def _equal(bounds: tuple[float, float]) -> bool:
    return math.isclose(*bounds, abs_tol=1e-9)
