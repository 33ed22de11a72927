"""The tables of a study's report, in Markdown."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from cluster.studies.figures import Difference, Mean, differences, mean_of, score_name, scored_modes, value_of, values
from cluster.studies.plan import run_name
from cluster.studies.result import Result
from configs.study import StudyConfig

NONE = "–"
DETAILS = ("ground_truth_plan", "plan_correct", "follow")
"""Scores that stand beside the headline's companions where the task gives them."""


def headline_table(study: StudyConfig, results: Sequence[Result], start: str) -> list[str]:
    """The headline score of every row from one start, one column a mode, beside the paper's figures."""
    rows = [row for row in study.rows if any(result.row == row and result.start == start for result in results)]
    modes = scored_modes(study, results)
    papers = [mode for mode in modes if any(mode in study.rows[row].paper for row in rows)]
    body = []
    for row in rows:
        runs = [values(results, row, mode, score_name(results, mode), start) for mode in modes]
        cells = [_mean(mean_of(list(each.values()))) for each in runs]
        paper = [_short(study.rows[row].paper.get(mode)) for mode in papers]
        body.append([row, *cells, *paper, _counts(results, row, start)])
    heads = [f"{score_name(results, mode)}, {mode}" for mode in modes]
    return table(["row", *heads, *(f"paper, {mode}" for mode in papers), "runs"], body)


def detail_table(study: StudyConfig, results: Sequence[Result], mode: str) -> list[str]:
    """Every score of one mode, over all runs of each row."""
    told = [result.scores[mode] for result in results if mode in result.scores]
    names = list(dict.fromkeys(name for scores in told for name in scores["interval"]))
    names += [name for name in DETAILS if any(value_of(scores, name) is not None for scores in told)]
    return _over_runs(study, results, mode, {name: name.replace("_", " ") for name in names})


def category_table(study: StudyConfig, results: Sequence[Result], mode: str) -> list[str]:
    """The headline score of one mode by category, over all runs of each row."""
    found: dict[str, str] = {}
    for result in results:
        for tag, category in result.scores.get(mode, {}).get("by_category", {}).items():
            found[f"category:{tag}"] = f"{tag} (seen)" if category["seen"] else tag
    return _over_runs(study, results, mode, found)


def compute_table(study: StudyConfig, results: Sequence[Result]) -> list[str]:
    """What a run of each row costs, on the mean: pictures painted to learn from, updates, and seconds of each stage."""
    stages = ("rollout", "update", "sync", "evaluation", "panel", "training", "modes")
    body = []
    for row in study.rows:
        costs = [result.compute for result in results if result.row == row]
        if costs:
            counts = [f"{sum(cost[name] for cost in costs) / len(costs):,.0f}" for name in ("steps", "images", "updates")]
            seconds = [sum(cost["seconds"].get(stage, 0.0) for cost in costs) / len(costs) for stage in stages]
            body.append([row, *counts, *(f"{each:.0f}" for each in seconds)])
    heads = ["rollout s", "update s", "sync s", "validation s", "panel s", "training s, all", "final evaluation s"]
    return table(["row", "steps", "images", "updates", *heads], body)


def order_table(study: StudyConfig, results: Sequence[Result], mode: str) -> list[str]:
    """Every two rows in one mode: the paper's difference and ours, run by run; and how many stand as they do there."""
    name = score_name(results, mode)
    scores = {row: runs for row in study.rows if (runs := values(results, row, mode, name))}
    paper = {row: study.rows[row].paper[mode] for row in study.rows if mode in study.rows[row].paper}
    found = differences(scores, paper)
    body = [
        [f"{each.above} - {each.below}", _signed(each.paper), _signed_mean(each.ours), str(each.ours.runs), _verdict(each)]
        for each in found
    ]
    lines = table(["rows", "paper", f"{name}, {mode}", "runs compared", "here"], body)
    ranked = sorted(scores, key=lambda row: -fmean(scores[row].values()))
    lines += ["", f"By the mean over runs: {' > '.join(ranked)}."]
    if paper:
        lines.append(f"In the paper: {' > '.join(sorted(paper, key=lambda row: -paper[row]))}.")
    known = [each for each in found if each.paper]
    if known:
        counted = {verdict: sum(each.verdict == verdict for each in known) for verdict in ("above", "below", "undecided")}
        lines += [
            "",
            f"Of {len(known)} pairs that the paper tells apart, {counted['above']} stand here as they do there, "
            f"{counted['below']} the other way round, and of {counted['undecided']} the difference is within the interval.",
        ]
    return lines


def extremes_table(study: StudyConfig, results: Sequence[Result], mode: str) -> list[str]:
    """The least and the greatest run of each row in one mode."""
    body = []
    for row in study.rows:
        runs = values(results, row, mode, score_name(results, mode))
        if runs:
            (least, low), (greatest, high) = (pick(runs.items(), key=lambda item: item[1]) for pick in (min, max))
            body.append([row, f"{_short(low)} ({run_name(row, *least)})", f"{_short(high)} ({run_name(row, *greatest)})"])
    return table(["row", "least run", "greatest run"], body)


def table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *body)]


def _over_runs(study: StudyConfig, results: Sequence[Result], mode: str, columns: Mapping[str, str]) -> list[str]:
    body = []
    for row in study.rows:
        means = [mean_of(list(values(results, row, mode, name).values())) for name in columns]
        if any(means):
            body.append([row, *map(_mean, means), _counts(results, row)])
    return table(["row", *columns.values(), "runs"], body)


def _counts(results: Sequence[Result], row: str, start: str | None = None) -> str:
    mine = [result for result in results if result.row == row and start in (None, result.start)]
    diverged = sum(result.diverged is not None for result in mine)
    return f"{len(mine)}" + (f", of which {diverged} diverged" if diverged else "")


def _verdict(each: Difference) -> str:
    return {"above": "above", "below": "below", "undecided": "within the interval"}[each.verdict]


def _mean(mean: Mean | None) -> str:
    if mean is None:
        return NONE
    return _short(mean.mean) + (f" [{_short(mean.interval[0])}, {_short(mean.interval[1])}]" if mean.interval else "")


def _signed_mean(mean: Mean) -> str:
    return _signed(mean.mean) + (f" [{_signed(mean.interval[0])}, {_signed(mean.interval[1])}]" if mean.interval else "")


def _signed(number: float | None) -> str:
    return _short(number, "+")


def _short(number: float | None, sign: str = "") -> str:
    """Example: .743; -.012; 1.000; with a sign +.743."""
    if number is None:
        return NONE
    text = f"{round(number, 3) + 0.0:{sign}.3f}"  # + 0.0 makes -0 a plain 0
    return text.replace("0.", ".", 1) if abs(number) < 0.9995 else text
