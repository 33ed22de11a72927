"""The page of a study, a pure function of its results."""

from pathlib import Path
from typing import Any

import pytest

from cluster.studies.report import report_lines, results_of, write_report
from cluster.studies.result import Result
from configs.load import ConfigError
from tests.cluster.studies.fakes import fake_result, fake_study

RESULTS = [
    fake_result("sft", "sft", None, 0.5),
    fake_result("text_grpo", "sft", 0, 0.7),
    fake_result("text_grpo", "sft", 1, 0.7),
    fake_result("unigrpo", "sft", 0, 0.7),
    fake_result("unigrpo", "sft", 1, 0.8),
    fake_result("unigrpo", "base", 0, None),
]
TWICE = {
    "sft": {"config": "../shapes/base.yaml", "trains": False, "starts": ["sft", "base"], "paper": {"think": 0.82}},
    "fpo": {"config": "../shapes/fpo.yaml", "paper": {"think": 0.85}},
    "unigrpo": {"config": "../shapes/unigrpo.yaml", "starts": ["sft", "base"], "paper": {"think": 0.90}},
}
"""Rows of which two are run from a second start."""


def section(lines: list[str], title: str) -> list[str]:
    """The lines between a heading and the next of its rank or above."""
    start = next(place for place, line in enumerate(lines) if line in (f"## {title}", f"### {title}")) + 1
    rest = lines[start:]
    return rest[: next((place for place, line in enumerate(rest) if line.startswith(("## ", "### "))), len(rest))]


def page(tmp_path: Path, results: list[Result] = RESULTS, **changes: Any) -> list[str]:
    return list(
        report_lines(fake_study(tmp_path, **{"control": "text_grpo", "compares": "GenEval", **changes}), "fake", results)
    )


def test_the_answer_stands_first(tmp_path: Path) -> None:
    lines = page(tmp_path)
    assert lines[:3] == ["# Study fake", "", "Which is best?"]
    assert lines[4] == "**Not finished**: 1 are missing: unigrpo/base-seed1."
    ranking = "unigrpo .750 [.115, 1.385] > text_grpo (control) .700 (equal in 2 runs) > sft .500 [.000, 1.000]†"
    assert lines[8] == f"Ranking in think, by the mean over runs: {ranking}."
    assert lines[6].startswith(
        "Target (unigrpo - sft at least +.200 in strict, think, with intervals that do not overlap): **missed"
    )


def test_a_mode_that_runs_have_no_scores_of_is_missing(tmp_path: Path) -> None:
    modes = {mode: ["evaluation.thinks=true"] for mode in ("think", "no_think", "greedy")}
    [line] = [line for line in page(tmp_path, modes=modes) if line.startswith("**Not finished**")]
    greedy = [
        f"greedy of {name}" for name in ("sft/sft", *(f"{row}/sft-seed{n}" for row in ("text_grpo", "unigrpo") for n in (0, 1)))
    ]
    assert line == f"**Not finished**: 6 are missing: unigrpo/base-seed1, {', '.join(greedy)}."


def test_the_headline_table_holds_scores_gains_paper_and_runs(tmp_path: Path) -> None:
    lines = section(page(tmp_path), "Scores, think")
    assert "| row | strict, think | gain over sft | one more run | paper (gain) | runs |" in lines
    assert "| sft | .500 [.000, 1.000]† | – | – | .820 | 1 |" in lines
    assert "| text_grpo (control) | .700 (equal in 2 runs) | +.200 (equal in 2 runs) | – | .880 (+.060) | 2 |" in lines
    assert "| unigrpo | .750 [.115, 1.385] | +.250 [-.385, +.885] | -.350 to 1.850 | .900 (+.080) | 2 |" in lines
    assert "The paper's figures are GenEval." in lines


def test_a_row_that_begins_elsewhere_says_so(tmp_path: Path) -> None:
    rows = {"bagel": {"config": "../shapes/base.yaml", "trains": False, "starts": ["base"]}, **TWICE}
    lines = page(tmp_path, [fake_result("bagel", "base", None, 0.3), *RESULTS[:1]], rows=rows, control=None)
    assert "| bagel (from base) | .300 [.000, 1.000]† | -.200 | – | – | 1 |" in section(lines, "Scores, think")
    assert not any(line.startswith("## Replication") for line in lines)


def test_runs_of_a_second_start_change_no_ranking_and_stand_beside(tmp_path: Path) -> None:
    """Pooled, fpo would stand above unigrpo, which beats it from the start that they share."""
    runs = [("fpo", "sft", 0.64), ("unigrpo", "sft", 0.70), ("unigrpo", "base", 0.50)]
    trained = [fake_result(row, start, seed, score + 0.01 * seed) for row, start, score in runs for seed in (0, 1)]
    untrained = [fake_result("sft", "sft", None, 0.5), fake_result("sft", "base", None, 0.3)]
    lines = page(tmp_path, [*untrained, *trained], rows=TWICE, control=None)
    assert ": unigrpo .705 [.641, .769] > fpo .645 [.581, .709] > sft .500" in lines[6]
    assert "| unigrpo | .705 [.641, .769] | +.205 [+.141, +.269] | .595 to .815 | .900 (+.080) | 2 |" in section(
        lines, "Scores, think"
    )
    assert "| unigrpo | .755 | .855 | .800 (equal in 2 runs) | .600 (equal in 2 runs) |" not in lines
    again = section(lines, "Replication from base")
    assert "| unigrpo | .505 [.441, .569] | +.205 [+.141, +.269] | .395 to .615 | .900 (+.080) | 2 |" in again
    assert "| pair | paper | from sft | verdict, sft | from base | verdict, base |" in again
    both = "+.205 [+.141, +.269] | as in the paper | +.205 [+.141, +.269] | as in the paper"
    assert f"| unigrpo - sft | +.080 | {both} |" in again
    assert any(line.startswith("Target (") for line in again)
    other = again[again.index("<details><summary>From base, no_think</summary>") :]
    assert "| unigrpo | .253 [.221, .284] | +.103 [+.071, +.134] | .197 to .308 | 2 |" in other
    [pair] = [line for line in other if line.startswith("| sft - unigrpo | – | ")]
    assert pair.count("[-.134, -.071] | below |") == 2


def test_a_start_from_which_every_run_diverged_says_so_and_has_no_score(tmp_path: Path) -> None:
    lines = page(tmp_path)
    assert "No run from base ended well." in section(lines, "Replication from base")
    assert "- unigrpo/base-seed0: metric loss of step 4 is nan" in section(lines, "Runs that diverged")
    lost = [*RESULTS[:-1], fake_result("text_grpo", "sft", 2, None)]
    scores = section(page(tmp_path, lost), "Scores, think")
    told = "| text_grpo (control) | .700 (equal in 2 runs) | +.200 (equal in 2 runs) | – | .880 (+.060) |"
    assert f"{told} 3, of which 1 diverged |" in scores


def test_every_mode_has_its_scores_and_its_order(tmp_path: Path) -> None:
    rows = fake_study(tmp_path).model_dump()["rows"]
    rows["sft"]["paper"]["no_think"], rows["unigrpo"]["paper"]["no_think"] = 0.83, 0.80
    lines = section(page(tmp_path, rows=rows), "no_think")
    assert "| text_grpo (control) | .350 (equal in 2 runs) | +.100 (equal in 2 runs) | – | – | 2 |" in lines
    assert "The paper's order: sft > unigrpo." in lines
    assert "| sft - unigrpo | +.030 | -.125 [-.443, +.193] | 2 | undecided |" in lines
    assert "| row | counting | colors (seen) |" in lines


def test_all_scores_and_categories_are_told_with_what_they_are(tmp_path: Path) -> None:
    lines = section(page(tmp_path), "Thoughts and pictures, think")
    assert "| row | strict | graded | ground truth plan | plan correct |" in lines
    assert "| sft | .500 [.000, 1.000]† | .600 [.000, 1.000]† | .800 | .600 |" in lines
    assert "plan correct: share of thoughts that are a plan which satisfies the prompt" in lines[1]
    categories = section(page(tmp_path), "Categories, think")
    assert "| sft | .500 [.250, .750]† | 1.000 |" in categories
    graded = categories[categories.index("<details><summary>Categories, think, graded</summary>") :]
    assert "| sft | .625 | 1.000 |" in graded


def test_what_a_row_costs_is_a_mean_over_its_runs(tmp_path: Path) -> None:
    lines = section(page(tmp_path), "Cost")
    assert "| text_grpo | 2 | 128 | 4 | 10 | 20 | 1 | 0 | 0 | 31 | 5 | 2 |" in lines
    assert "| sft | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 5 | 2 |" in lines
    assert "The whole study, 6 runs: 11520 minutes of wall time." in lines  # eight days, side by side


def test_the_panel_is_told_first_and_last_with_its_rewards_and_alarms(tmp_path: Path) -> None:
    panels = [
        [
            {"step": 0, "gap": 0.1, "score": 0.5},
            {"step": 20, "gap": 0.5, "score": 0.7, "alarm/gap": True, "alarm/diversity": False},
        ],
        [{"step": 0, "gap": 0.2, "score": 0.5}, {"step": 20, "gap": 0.3, "score": 0.9, "alarm/gap": False}],
    ]
    config = {"reward.kind": "geneval", "reward.score": "graded", "panel.reward.kind": "differentiable"}
    watched = [fake_result("unigrpo", "sft", seed, 0.7, panel=rows, config=config) for seed, rows in enumerate(panels)]
    lines = section(page(tmp_path, [RESULTS[0], *watched]), "Panel of reward hacking")
    assert "| row | trained on (score) | held out | alarms (runs, first step) | gap | score | runs |" in lines
    assert "| unigrpo | geneval graded | differentiable | gap (1, 20) | 0.15 -> 0.4 | 0.5 -> 0.8 | 2 |" in lines
    assert "## Panel of reward hacking" not in page(tmp_path)


def test_how_updates_went_is_told_first_and_last(tmp_path: Path) -> None:
    curves = [{"reward": [], "validation": [], "drift": [(10, 0.1), (20, last)]} for last in (0.2, 0.4)]
    trained = [fake_result("unigrpo", "sft", seed, 0.7, curves=each) for seed, each in enumerate(curves)]
    lines = section(page(tmp_path, [RESULTS[0], RESULTS[1], *trained]), "Updates")
    assert lines[3:] == ["| row | drift |", "| --- | --- |", "| unigrpo | 0.1 -> 0.3 |", ""]
    assert "## Updates" not in page(tmp_path)


def test_a_rows_first_run_has_its_pictures_linked(tmp_path: Path) -> None:
    watched = fake_result("unigrpo", "sft", 0, 0.7, panel=[{"step": 0, "score": 0.5}])
    lines = section(page(tmp_path, [RESULTS[0], watched, RESULTS[4]]), "Sample sheets")
    both = "[think](sft/sft/samples/think/sheet.png), [no_think](sft/sft/samples/no_think/sheet.png)"
    assert f"- sft: {both}" in lines
    both = both.replace("sft/sft", "unigrpo/sft-seed0")
    assert f"- unigrpo: {both}, [panel](unigrpo/sft-seed0/panel.png)" in lines
    watched = fake_result("unigrpo", "sft", 0, 0.7, panel=[{"step": 0, "score": 0.5}], config={"then.steps": 2})
    lines = section(page(tmp_path, [RESULTS[0], watched, RESULTS[4]]), "Sample sheets")
    panels = [f"[panel of {stage}](unigrpo/sft-seed0/{stage}/panel.png)" for stage in ("stage-1", "stage-2")]
    assert f"- unigrpo: {both}, {', '.join(panels)}" in lines


def test_what_alarmed_has_its_pictures_linked(tmp_path: Path) -> None:
    panels = [[{"step": 0, "alarm/gap": loud and seed == 1}] for loud in (True, False) for seed in (0, 1, 2)]
    runs = [fake_result("unigrpo", "sft", seed, 0.7, panel=rows) for seed, rows in enumerate(panels[:3])]
    quiet = [fake_result("text_grpo", "sft", seed, 0.7, panel=rows) for seed, rows in enumerate(panels[3:])]
    lines = section(page(tmp_path, [RESULTS[0], *quiet, *runs]), "Sample sheets")
    own, folder = "[panel](unigrpo/sft-seed0/panel.png)", "unigrpo/sft-seed1"
    alarmed = f"[think of seed 1]({folder}/samples/think/sheet.png), [panel of seed 1]({folder}/panel.png)"
    [line] = [line for line in lines if line.startswith("- unigrpo: ")]
    assert line.endswith(f", {own}, {alarmed}")
    assert not any("seed1" in each for each in lines if each.startswith("- text_grpo"))


def test_commands_hold_the_overrides_and_the_last_row_that_is_not_the_control(tmp_path: Path) -> None:
    made = {
        **RESULTS[0].provenance[0],
        "command": "unigrpo reproduce fake --rows sft steps=10 'run_dir=my runs'",
        "began": "2026-01-02",
    }
    again = fake_result("sft", "sft", None, 0.5, provenance=[RESULTS[0].provenance[0], made])
    lines = section(page(tmp_path, [again, *RESULTS[1:]], control="unigrpo"), "Commands and versions")
    assert "unigrpo reproduce fake steps=10 'run_dir=my runs' --rows sft,text_grpo --seeds 2" in lines
    assert "| `unigrpo reproduce fake` | 123 | 2 cores, Linux | torch 2 | 6 |" in lines
    assert f"| `{made['command']}` | 123 | 2 cores, Linux | torch 2 | 1 |" in lines
    assert "| unigrpo/sft-seed1 | .800 | .400 | abc | 123 |" in lines
    assert "| unigrpo/base-seed0 | – | – | abc | 123 |" in lines


def test_where_no_run_ended_well_the_page_says_so(tmp_path: Path) -> None:
    lines = page(tmp_path, [fake_result("unigrpo", "sft", 0, None)])
    assert "No run from its row's first start ended well." in lines
    assert "- unigrpo/sft-seed0: metric loss of step 4 is nan" in lines


def written(results: list[Result], folder: Path) -> None:
    for result in results:
        name = f"{result.start}-seed{result.seed}" if result.seed is not None else result.start
        result.write(folder / result.row / name)


def test_a_report_is_written_from_what_is_finished(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    with pytest.raises(ConfigError, match="nothing of fake is finished"):
        write_report(study, "fake")
    written([*RESULTS, fake_result("gone", "sft", 0, 0.1)], tmp_path)
    assert [(each.row, each.start, each.seed) for each in results_of(study)] == [(r.row, r.start, r.seed) for r in RESULTS]
    path = write_report(study, "fake")
    assert path.read_text().startswith("# Study fake\n\nWhich is best?\n")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_report_of_runs_that_were_trained_otherwise_is_refused(tmp_path: Path) -> None:
    other = fake_result("unigrpo", "sft", 2, 0.9, config={"algorithm.kind": "unigrpo", "steps": 10})
    written([*RESULTS, other], tmp_path)
    with pytest.raises(ConfigError, match="steps"):
        write_report(fake_study(tmp_path), "fake")
    assert not (tmp_path / "README.md").exists()
