"""How a study's page writes numbers and tables in Markdown."""

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
    if mean is None:
        return NONE
    mark = OVER_PROMPTS if mean.over == "prompts" else ""
    return short(mean.mean) + (f" [{short(mean.interval[0])}, {short(mean.interval[1])}]{mark}" if mean.interval else "")


def gain_cell(mean: Mean | None) -> str:
    """Example: +.200 [+.120, +.280]."""
    if mean is None:
        return NONE
    return signed(mean.mean) + (f" [{signed(mean.interval[0])}, {signed(mean.interval[1])}]" if mean.interval else "")


def range_cell(bounds: tuple[float, float] | None) -> str:
    """Example: .701 to .785."""
    return NONE if bounds is None else f"{short(bounds[0])} to {short(bounds[1])}"


def signed(number: float | None) -> str:
    """Example: +.743."""
    return short(number, "+")


def short(number: float | None, sign: str = "") -> str:
    """Example: .743; -.012; 1.000; with a sign +.743."""
    if number is None:
        return NONE
    text = f"{round(number, 3) + 0.0:{sign}.3f}"  # + 0.0 makes -0 a plain 0
    return text.replace("0.", ".", 1) if abs(number) < 0.9995 else text
