"""Tables of scores and of cost in a study's report. The runs of a row that they are given began from one start."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from cluster.studies.cells import gain_cell, mean_cell, range_cell, short, signed, table
from cluster.studies.figures import baseline_of, difference, label_of, row_mean, score_name, value_of, values
from cluster.studies.result import Result
from configs.study import StudyConfig
from unigrpo.algo.intervals import one_more_run

DETAILS = ("ground_truth_plan", "plan_correct", "follow")
"""Scores that stand beside the headline's companions where the task gives them."""
MEANINGS = {
    "strict": "share of pictures that show exactly what was asked and nothing else",
    "graded": "share of a prompt's clauses that hold, a surplus object counting against it",
    "geneval": "GenEval's rule, which allows surplus objects",
    "ground_truth_plan": "the headline score of pictures painted from a right plan: how well it paints",
    "plan_correct": "share of thoughts that are a plan which satisfies the prompt: how well it thinks",
    "follow": "mean share of a plan's objects that were painted as planned",
}
"""Score -> what it is."""


def headline_table(study: StudyConfig, results: Sequence[Result], mode: str) -> list[str]:
    """The headline score of every row in one mode, its gain over the baseline, and both in the paper where it has them."""
    name, base = score_name(results, mode), baseline_of(study)
    compares = any(mode in row.paper for row in study.rows.values())
    below = {} if base is None else values(results, base, mode, name)
    known = study.rows[base].paper.get(mode) if base is not None else None
    body = []
    for row in study.rows:
        if not any(result.row == row for result in results):
            continue
        runs = values(results, row, mode, name)
        gain = difference(runs, below) if row != base else None
        cells = [label_of(study, row), mean_cell(row_mean(results, row, mode, name))]
        cells += [gain_cell(gain)] if below else []
        cells += [range_cell(one_more_run(list(runs.values())))]
        if compares:
            paper = study.rows[row].paper.get(mode)
            more = "" if paper is None or known is None or row == base else f" ({signed(paper - known)})"
            cells.append(short(paper) + more)
        body.append([*cells, _counts(results, row)])
    heads = ["row", f"{name}, {mode}", *([f"gain over {base}"] if below else []), "one more run"]
    return table([*heads, *(["paper (gain)"] if compares else []), "runs"], body)


def detail_table(study: StudyConfig, results: Sequence[Result], mode: str) -> list[str]:
    """Every score of one mode."""
    return _all_rows(study, results, mode, {name: _title(name) for name in _names(results, mode)})


def meanings(results: Sequence[Result], mode: str) -> str:
    """What every score of one mode is."""
    return "; ".join(f"{_title(name)}: {MEANINGS[name]}" for name in _names(results, mode) if name in MEANINGS)


def category_table(study: StudyConfig, results: Sequence[Result], mode: str, score: str | None = None) -> list[str]:
    """A score of one mode by category, the headline's if none is named."""
    found: dict[str, str] = {}
    asked = "" if score is None else f":{score}"
    for result in results:
        for tag, category in result.scores.get(mode, {}).get("by_category", {}).items():
            found[f"category:{tag}{asked}"] = _title(tag) + (" (seen)" if category["seen"] else "")
    return _all_rows(study, results, mode, found)


def compute_table(study: StudyConfig, results: Sequence[Result]) -> list[str]:
    """What a run of each row costs, on the mean: pictures painted to learn from, updates, and seconds of each stage."""
    stages = ("rollout", "update", "sync", "evaluation", "panel", "training", "modes")
    body = []
    for row in study.rows:
        mine = [result for result in results if result.row == row]
        costs = [result.compute for result in mine]
        if costs:
            counts = [f"{sum(cost[name] for cost in costs) / len(costs):,.0f}" for name in ("steps", "images", "updates")]
            seconds = [sum(cost["seconds"].get(stage, 0.0) for cost in costs) / len(costs) for stage in stages]
            lanes = sorted({each["lanes"] for result in mine for each in result.provenance})
            body.append([row, *counts, *(f"{each:.0f}" for each in seconds), ", ".join(map(str, lanes))])
    heads = ["rollout s", "update s", "sync s", "validation s", "panel s", "training s, all", "final evaluation s", "lanes"]
    return table(["row", "steps", "images", "updates", *heads], body)


def wall_time(results: Sequence[Result]) -> timedelta:
    """How long anything of these results ran, whatever ran beside it; what was cut off counts from where it went on."""
    spans = [
        (datetime.fromisoformat(each["began"]), datetime.fromisoformat(each["ended"]))
        for result in results
        for each in result.provenance
        if each["ended"] is not None
    ]
    whole, until = timedelta(), min(began for began, _ in spans)
    for began, ended in sorted(spans):
        whole += max(timedelta(), ended - max(began, until))
        until = max(until, ended)
    return whole


def _names(results: Sequence[Result], mode: str) -> list[str]:
    told = [result.scores[mode] for result in results if mode in result.scores]
    names = list(dict.fromkeys(name for scores in told for name in scores["interval"]))
    return names + [name for name in DETAILS if any(value_of(scores, name) is not None for scores in told)]


def _all_rows(study: StudyConfig, results: Sequence[Result], mode: str, columns: Mapping[str, str]) -> list[str]:
    body = []
    for row in study.rows:
        means = [row_mean(results, row, mode, name) for name in columns]
        if any(means):
            body.append([label_of(study, row), *map(mean_cell, means)])
    return table(["row", *columns.values()], body)


def _counts(results: Sequence[Result], row: str) -> str:
    mine = [result for result in results if result.row == row]
    diverged = sum(result.diverged is not None for result in mine)
    return f"{len(mine)}" + (f", of which {diverged} diverged" if diverged else "")


def _title(name: str) -> str:
    return name.replace("_", " ")
