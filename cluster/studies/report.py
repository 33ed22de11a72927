"""The report of a study: a page of Markdown and its curves, from the results that are there and nothing else."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.studies.curves import plot_study
from cluster.studies.figures import scored_modes
from cluster.studies.panels import panel_table
from cluster.studies.plan import run_name
from cluster.studies.result import RESULT, Result, read_result
from cluster.studies.tables import (
    category_table,
    compute_table,
    detail_table,
    extremes_table,
    headline_table,
    order_table,
    table,
)
from configs.load import ConfigError
from configs.study import StudyConfig

REPORT = "README.md"
CURVES = "curves.png"


def write_report(study: StudyConfig, name: str) -> Path:
    """Write the report of all that is finished into the study's folder; `name` is how the command called the study.

    Raises ConfigError where nothing is finished.
    """
    results = results_of(study)
    if not results:
        raise ConfigError(f"nothing of {study.name} is finished in {study.run_dir}; run it without --report")
    plot_study(study, results, study.run_dir / CURVES)
    path = study.run_dir / REPORT
    path.write_text("\n".join(report_lines(study, name, results)) + "\n", encoding="utf-8")
    return path


def results_of(study: StudyConfig) -> list[Result]:
    """What is finished of the study's rows, in their order, then by start and seed."""
    found = [read_result(path) for path in study.run_dir.glob(f"*/*/{RESULT}")]
    rows, starts = list(study.rows), list(study.starts)
    known = [result for result in found if result.row in rows and result.start in starts]
    return sorted(known, key=lambda each: (rows.index(each.row), starts.index(each.start), each.seed or 0))


def report_lines(study: StudyConfig, name: str, results: Sequence[Result]) -> Iterator[str]:
    """The page, line by line. A pure function of what it is given."""
    yield from (f"# Study {study.name}", "", study.question, "")
    yield (
        f"{len(results)} runs. Every score is of {_pictures(results)} prompts, the same with the same seeds for all runs. "
        "A number is the mean over runs, in brackets its 95 % interval (Student's t; runs of one start share its luck)."
    )
    if not any(result.scores for result in results):
        yield from ("", "No run ended well.", *_diverged(results))
        return
    for start in study.starts:
        if any(result.start == start for result in results):
            yield from ("", f"## From start {start}", "", *headline_table(study, results, start))
    if study.compares:
        yield from ("", f"The paper's figures are {study.compares}.")
    if study.control is not None:
        yield from ("", f"`{study.control}` is the control: it trains on scores that know nothing.")
    scored = scored_modes(study, results)
    yield from ("", f"## Order of rows, {scored[0]}", "", *order_table(study, results, scored[0]))
    for mode in scored:
        yield from ("", f"## All scores, {mode}", "", "Over all runs of a row.", "", *detail_table(study, results, mode))
        yield from ("", f"## By category, {mode}", "", *category_table(study, results, mode))
    yield from ("", f"## Least and greatest runs, {scored[0]}", "", *extremes_table(study, results, scored[0]))
    if any(result.panel for result in results):
        yield from ("", "## Panel", "", "First and last values, on the mean over runs.", "", *panel_table(study, results))
    yield from ("", "## What it cost", "", "A run of each row, on the mean.", "", *compute_table(study, results))
    yield from ("", "## Curves", "", f"![training reward and validation score over the steps]({CURVES})", "")
    yield "Lines are means over runs, shades reach from the least to the greatest; validation is on prompts kept for choosing."
    yield from _sheets(study, results, scored)
    yield from _diverged(results)
    yield from _origin(study, name, results)


def _pictures(results: Sequence[Result]) -> str:
    scores = next((each for result in results for each in result.scores.values()), None)
    return "no" if scores is None else f"{scores['pictures']} pictures of {scores['prompts']}"


def _sheets(study: StudyConfig, results: Sequence[Result], modes: Sequence[str]) -> Iterator[str]:
    yield from ("", "## Sample sheets", "", "The same prompts and seeds in each.", "")
    for row in study.rows:
        first = next((result for result in results if result.row == row and result.scores), None)
        if first is not None:
            where = run_name(first.row, first.start, first.seed)
            yield f"- {row}: " + ", ".join(f"[{mode}]({where}/samples/{mode}/sheet.png)" for mode in modes)


def _diverged(results: Sequence[Result]) -> Iterator[str]:
    lost = [result for result in results if result.diverged is not None]
    if lost:
        yield from ("", "## Runs that diverged", "")
        yield from (f"- {run_name(each.row, each.start, each.seed)}: {each.diverged}" for each in lost)


def _origin(study: StudyConfig, name: str, results: Sequence[Result]) -> Iterator[str]:
    """How to run a row again, and on what the results were made."""
    yield from (
        "",
        "## How to run it again",
        "",
        "All of it, one row with its seeds, and one row with another seed:",
        "",
        "```",
    )
    last = [row for row in study.rows if study.rows[row].trains][-1:] or list(study.rows)[-1:]
    yield f"unigrpo reproduce {name}"
    yield f"unigrpo reproduce {name} --rows {last[0]}"
    yield f"unigrpo reproduce {name} --rows {last[0]} --seeds {max(study.seeds) + 1}"
    yield from ("```", "", "What the runs were made with:", "")
    body = []
    for result in results:
        made, host = result.provenance, result.provenance["host"]
        versions = ", ".join(f"{package} {version}" for package, version in made["versions"].items())
        body.append((f"`{made['command']}`", str(made["commit"]), f"{host['cores']} cores, {host['system']}", versions))
    counted = {key: body.count(key) for key in body}
    yield from table(["command", "commit", "host", "versions", "runs"], [[*key, str(count)] for key, count in counted.items()])
    began = min(result.provenance["began"] for result in results)
    ended = max(result.provenance["ended"] for result in results)
    seconds = sum(sum(result.compute["seconds"].get(each, 0.0) for each in ("training", "modes")) for result in results)
    yield from ("", f"Between {began} and {ended}; {seconds / 60:.0f} minutes of runs, as many at a time as there were lanes.")
    yield from ("", "Configs, by run:", "")
    yield from table(["run", "config"], [[run_name(each.row, each.start, each.seed), each.config_hash] for each in results])
