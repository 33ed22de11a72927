"""The report of a study: a page of Markdown and its curves, from the results that are there and nothing else."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.stages import STAGES
from cluster.studies.cells import OVER_PROMPTS, folded
from cluster.studies.curves import curves_line, plot_study
from cluster.studies.figures import baseline_of, main_start, of_first_starts, replications, score_name, scored_modes
from cluster.studies.learning import learning_table
from cluster.studies.order import differences_of, order_lines, ranking, replication_table
from cluster.studies.origin import origin_lines
from cluster.studies.panels import alarmed, panel_table
from cluster.studies.plan import run_name
from cluster.studies.result import RESULT, Result, read_result, require_same_study
from cluster.studies.tables import category_table, compute_table, detail_table, headline_table, meanings, wall_time
from cluster.studies.target import target_line
from configs.load import ConfigError
from configs.study import StudyConfig

REPORT = "README.md"
CURVES = "curves.png"
GRADED = "graded"
"""The score that is told by category beside the headline's."""
_PANEL = (
    "First and last values, means over runs, of the same training prompts and seeds at every panel. Score and held-out score "
    "are of the two rewards named, so gaps, the one less the other, compare only between rows with the same two."
)
_UPDATES = (
    "First and last ten steps, means over runs. Drift: distance of velocities from the reference's, as a share of these, over "
    "the window's steps. Clipped: share of ratios beyond the clip. FPO log-ratio: the largest of a step. Mismatch: mean "
    "distance of the sampler's log-probabilities from the learner's."
)


def write_report(study: StudyConfig, name: str) -> Path:
    """Write the report of all that is finished into the study's folder; `name` is how the command called the study.

    Raises ConfigError where nothing is finished, and where what is finished is not of one study.
    """
    results = results_of(study)
    if not results:
        raise ConfigError(f"nothing of {study.name} is finished in {study.run_dir}; run it without --report")
    require_same_study(results)
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


def missing_scores(study: StudyConfig, results: Sequence[Result]) -> list[str]:
    """The study's own runs that have no result, by name, and those that lack scores of a mode."""
    planned = [
        run_name(name, start, seed)
        for name, row in study.rows.items()
        for start in study.starts_of(row)
        for seed in (study.seeds if row.trains else (None,))
    ]
    found = {run_name(result.row, result.start, result.seed): result for result in results}
    return [name for name in planned if name not in found] + [
        f"{mode} of {name}"
        for name in planned
        for mode in study.modes
        if name in found and found[name].diverged is None and mode not in found[name].scores
    ]


def report_lines(study: StudyConfig, name: str, results: Sequence[Result]) -> Iterator[str]:
    """The page, line by line, the answer first. A pure function of what it is given."""
    yield from (f"# Study {study.name}", "", study.question, "")
    own = of_first_starts(study, results)
    scored = scored_modes(study, own)
    if missing := missing_scores(study, results):
        yield from (f"**Not finished**: {len(missing)} are missing: {', '.join(missing)}.", "")
    if scored:
        yield from _scores(study, own, scored[0])
        for start, again in replications(study, results).items():
            yield from _replication(study, own, start, again, scored)
        yield from _other_modes(study, own, scored[1:])
        yield from ("", f"## Thoughts and pictures, {scored[0]}", "", f"{meanings(own, scored[0])}.", "")
        yield from detail_table(study, own, scored[0])
        yield from ("", f"## Categories, {scored[0]}", "", *category_table(study, own, scored[0]))
        if score_name(own, scored[0]) != GRADED:
            yield from ("", *folded(f"Categories, {scored[0]}, graded", category_table(study, own, scored[0], GRADED)))
    else:
        yield "No run from its row's first start ended well."
    yield from _cost(study, own, results)
    if told := learning_table(study, own):
        yield from ("", "## Updates", "", _UPDATES, "", *told)
    if any(result.panel for result in own):
        yield from ("", "## Panel of reward hacking", "", _PANEL, "", *panel_table(study, own))
    if any(result.curves["reward"] for result in own):
        yield from ("", "## Curves", "", f"![training reward and validation score over the steps]({CURVES})", "")
        yield curves_line(study, own)
    yield from _sheets(study, own, scored)
    yield from _diverged(results)
    yield from ("", "## Commands and versions", "", *origin_lines(study, name, results, scored))


def _scores(study: StudyConfig, own: Sequence[Result], mode: str) -> Iterator[str]:
    target = target_line(study, own)
    yield from ([target, ""] if target else [])
    yield from (f"Ranking in {mode}, by the mean over runs: {ranking(study, own, mode)}.", "")
    yield from (f"## Scores, {mode}", "", *headline_table(study, own, mode), "", *_legend(study, own, mode))
    if order := list(order_lines(study, own, mode)):
        yield from ("", f"## Order of rows, {mode}", "")
        yield "Differences over runs of equal seed with their t interval; undecided: it holds 0. Pairs are not corrected for"
        yield from ("their number: of twenty that do not differ, one is told apart by chance.", "", *order)


def _legend(study: StudyConfig, own: Sequence[Result], mode: str) -> Iterator[str]:
    """What the columns of scores are."""
    scores = next(result.scores[mode] for result in own if mode in result.scores)
    yield f"A score is the mean over runs, one a seed, each of {scores['pictures']} pictures of {scores['prompts']} prompts,"
    yield "the same with the same seeds for every run. In brackets its 95 % interval: Student's t over runs, which says where"
    yield "the mean of many training seeds would lie on these prompts, and may reach beyond 0 or 1;"
    yield f"{OVER_PROMPTS}: one run, untrained, bootstrap over prompts. One trained run has no interval, nor has what happens"
    yield "to be equal in all runs: it says nothing of the next run (a difference that is equal in all pairs counts as told"
    yield "apart). One more run: where a single run with another seed would lie, in 95 of 100 cases."
    if (base := baseline_of(study)) is not None:
        yield f"Gain: the difference to {base} in the same mode, t interval over runs, with the prompts taken as given."
    if study.control is not None:
        yield f"{study.control} is the control, trained on scores that know nothing: what it gains, no method has earned."
    if study.compares:
        yield f"The paper's figures are {study.compares}."


def _replication(
    study: StudyConfig, own: Sequence[Result], start: str, again: Sequence[Result], modes: Sequence[str]
) -> Iterator[str]:
    yield from ("", f"## Replication from {start}", "")
    yield from ("The same rows from another start, told beside the first and never averaged with it.", "")
    scored = [mode for mode in scored_modes(study, again) if mode in modes]
    if not scored:
        yield f"No run from {start} ended well."
        return
    target = target_line(study, again)
    yield from ([target, ""] if target else [])
    for mode in scored:
        pairs = [(main_start(study), differences_of(study, own, mode)), (start, differences_of(study, again, mode))]
        told = [*headline_table(study, again, mode), "", *replication_table(pairs)]
        yield from (told if mode == modes[0] else ("", *folded(f"From {start}, {mode}", told)))


def _other_modes(study: StudyConfig, own: Sequence[Result], modes: Sequence[str]) -> Iterator[str]:
    if modes:
        yield from ("", "## Other modes", "", "The same policies, evaluated otherwise:", "")
        yield from (f"- {mode}: `{' '.join(study.modes[mode])}`" for mode in modes)
    for mode in modes:
        yield from ("", f"### {mode}", "", *headline_table(study, own, mode), "", *order_lines(study, own, mode))
        more = [*detail_table(study, own, mode), "", *category_table(study, own, mode)]
        yield from ("", *folded(f"All scores and categories, {mode}", more))


def _cost(study: StudyConfig, own: Sequence[Result], results: Sequence[Result]) -> Iterator[str]:
    yield from ("", "## Cost", "", *compute_table(study, own), "")
    yield "Means over runs. Images: painted to learn from. Seconds are of the clock, while as many runs as lanes says shared"
    yield "the machine: they compare between rows with the same lanes."
    yield f"The whole study, {len(results)} runs: {wall_time(results).total_seconds() / 60:.0f} minutes of wall time."


def _sheets(study: StudyConfig, own: Sequence[Result], modes: Sequence[str]) -> Iterator[str]:
    yield from (
        "",
        "## Sample sheets",
        "",
        "The same prompts and seeds in each; of the first run of a row, and of others that alarmed.",
        "",
    )
    for row in study.rows:
        first = next((result for result in own if result.row == row and result.scores), None)
        if first is not None:
            links = _pictures(first, modes)
            for other in own:
                if other.row == row and other is not first and alarmed(other):
                    links += _pictures(other, modes[:1] if other.scores else (), f" of seed {other.seed}")
            yield f"- {row}: {', '.join(links)}"


def _pictures(run: Result, modes: Sequence[str], whose: str = "") -> list[str]:
    """Links to a run's sheets in these modes, and to what its panels saw, one of each stage."""
    where = run_name(run.row, run.start, run.seed)
    links = [f"[{mode}{whose}]({where}/samples/{mode}/sheet.png)" for mode in modes]
    if not run.panel:
        return links
    if "then.steps" not in run.config:
        return [*links, f"[panel{whose}]({where}/panel.png)"]
    return links + [f"[panel of {stage}{whose}]({where}/{stage}/panel.png)" for stage in STAGES]


def _diverged(results: Sequence[Result]) -> Iterator[str]:
    lost = [result for result in results if result.diverged is not None]
    if lost:
        yield from ("", "## Runs that diverged", "")
        yield from (f"- {run_name(each.row, each.start, each.seed)}: {each.diverged}" for each in lost)
