"""How the updates of a study's rows went, as a table: what their curves of this begin and end with."""

from collections.abc import Sequence
from statistics import fmean

from cluster.studies.cells import NONE, table
from cluster.studies.compute import LEARNING
from cluster.studies.result import Result
from configs.study import StudyConfig


def learning_table(study: StudyConfig, results: Sequence[Result]) -> list[str]:
    """First and last ten steps, means over each row's runs; of the measures that any row has. No line where none has any."""
    curves = {row: [each.curves for each in results if each.row == row and each.seed is not None] for row in study.rows}
    names = [name for name in LEARNING if any(name in each for mine in curves.values() for each in mine)]
    body = []
    for row, mine in curves.items():
        found = {name: [each[name] for each in mine if name in each] for name in names}
        if any(found.values()):
            body.append([row, *(_ends(found[name]) for name in names)])
    return table(["row", *names], body) if body else []


def _ends(curves: Sequence[Sequence[tuple[int, float]]]) -> str:
    """Example: "0.04 -> 0.21"."""
    if not curves:
        return NONE
    return " -> ".join(f"{fmean(curve[place][1] for curve in curves):.3g}" for place in (0, -1))
