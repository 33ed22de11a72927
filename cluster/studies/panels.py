"""What the panel of reward hacking saw in the runs of a study, as a table."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from cluster.studies.cells import NONE, table
from cluster.studies.result import Result
from cluster.studies.rewards import HELD_OUT, reward_text
from configs.study import StudyConfig

ALARM = "alarm/"
"""Before the name of a measure in a panel's row: whether it alarmed."""


def panel_table(study: StudyConfig, results: Sequence[Result]) -> list[str]:
    """What the panel of reward hacking measured first and last in each row's runs, on the mean, in how many it alarmed, and the
    rewards that its scores are of, which differ from row to row.
    """
    watched = {row: [each.panel for each in results if each.row == row and each.panel] for row in study.rows}
    measures = list(
        dict.fromkeys(
            name
            for panels in watched.values()
            for rows in panels
            for name, value in rows[0].items()
            if isinstance(value, float) and name != "step"
        )
    )
    body = []
    for row, panels in watched.items():
        if panels:
            ends = [[rows[place] for rows in panels] for place in (0, -1)]
            cells = [" -> ".join(_over_panels(rows, name) for rows in ends) for name in measures]
            first = next(result for result in results if result.row == row and result.panel)
            rewards = reward_text(first), reward_text(first, HELD_OUT)
            body.append([row, *rewards, _alarms(panels), *cells, str(len(panels))])
    heads = [
        "row",
        "trained on (score)",
        "held out",
        "alarms (runs, first step)",
        *(name.replace("_", " ") for name in measures),
    ]
    return table([*heads, "runs"], body)


def alarmed(result: Result) -> bool:
    """Whether any measure of a run's panels alarmed."""
    return bool(_first_alarms(result.panel))


def _over_panels(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    known = [row[name] for row in rows if name in row]
    return f"{fmean(known):.3g}" if known else NONE


def _alarms(panels: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Example: "gap (2, 40)": it alarmed in two runs, first at step 40."""
    first: dict[str, list[int]] = {}
    for rows in panels:
        for name, step in _first_alarms(rows).items():
            first.setdefault(name, []).append(step)
    return ", ".join(f"{name} ({len(steps)}, {min(steps)})" for name, steps in sorted(first.items())) or "none"


def _first_alarms(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Measure -> step, of the measures that alarmed in one run."""
    first: dict[str, int] = {}
    for row in rows:
        for key in row:
            if key.startswith(ALARM) and row[key]:
                first.setdefault(key.removeprefix(ALARM), row["step"])
    return first
