"""The page of a study, a pure function of its results."""

from pathlib import Path

import pytest

from cluster.studies.curves import band, smoothed
from cluster.studies.report import report_lines, results_of, write_report
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


def section(lines: list[str], title: str) -> list[str]:
    """The lines between a heading and the next."""
    start = lines.index(f"## {title}") + 1
    rest = lines[start:]
    return rest[: next((place for place, line in enumerate(rest) if line.startswith("## ")), len(rest))]


def page(tmp_path: Path) -> list[str]:
    return list(report_lines(fake_study(tmp_path, control="sft", compares="GenEval"), "fake", RESULTS))


def test_the_table_of_a_start_holds_means_intervals_paper_and_runs(tmp_path: Path) -> None:
    lines = section(page(tmp_path), "From start sft")
    assert "| row | strict, think | strict, no_think | paper, think | runs |" in lines
    assert "| sft | .500 | .250 | .820 | 1 |" in lines
    assert "| text_grpo | .700 [.700, .700] | .350 [.350, .350] | .880 | 2 |" in lines
    assert "| unigrpo | .750 [.115, 1.385] | .375 [.057, .693] | .900 | 2 |" in lines


def test_a_diverged_run_is_counted_and_has_no_score(tmp_path: Path) -> None:
    lines = page(tmp_path)
    assert "| unigrpo | – | – | .900 | 1, of which 1 diverged |" in section(lines, "From start base")
    assert "- unigrpo/base-seed0: metric loss of step 4 is nan" in section(lines, "Runs that diverged")


def test_rows_are_set_against_the_paper_pair_by_pair(tmp_path: Path) -> None:
    lines = section(page(tmp_path), "Order of rows, think")
    assert "| text_grpo - sft | +.060 | +.200 [+.200, +.200] | 2 | above |" in lines
    assert "| unigrpo - sft | +.080 | +.250 [-.385, +.885] | 2 | within the interval |" in lines
    assert "| unigrpo - text_grpo | +.020 | +.050 [-.585, +.685] | 2 | within the interval |" in lines
    assert "By the mean over runs: unigrpo > text_grpo > sft." in lines
    assert "In the paper: unigrpo > text_grpo > sft." in lines
    told = "Of 3 pairs that the paper tells apart, 1 stand here as they do there, 0 the other way round, and of 2 the"
    assert any(line.startswith(told) for line in lines)


def test_all_scores_categories_and_extremes(tmp_path: Path) -> None:
    lines = page(tmp_path)
    assert "| row | strict | graded | ground truth plan | plan correct | runs |" in section(lines, "All scores, think")
    assert "| sft | .500 | .600 | .800 | .600 | 1 |" in section(lines, "All scores, think")
    assert "| sft | .250 | .350 | 1 |" in section(lines, "All scores, no_think")
    assert "| row | counting | colors (seen) | runs |" in section(lines, "By category, think")
    assert "| unigrpo | .700 (unigrpo/sft-seed0) | .800 (unigrpo/sft-seed1) |" in section(
        lines, "Least and greatest runs, think"
    )


def test_what_a_row_costs_is_a_mean_over_its_runs(tmp_path: Path) -> None:
    lines = section(page(tmp_path), "What it cost")
    assert "| text_grpo | 2 | 128 | 4 | 10 | 20 | 1 | 0 | 0 | 31 | 5 |" in lines
    assert "| sft | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 5 |" in lines


def test_the_panel_is_told_first_and_last_with_its_alarms(tmp_path: Path) -> None:
    panels = [
        [
            {"step": 0, "gap": 0.1, "score": 0.5},
            {"step": 20, "gap": 0.5, "score": 0.7, "alarm/gap": True, "alarm/diversity": False},
        ],
        [{"step": 0, "gap": 0.2, "score": 0.5}, {"step": 20, "gap": 0.3, "score": 0.9, "alarm/gap": False}],
    ]
    watched = [fake_result("unigrpo", "sft", seed, 0.7, panel=rows) for seed, rows in enumerate(panels)]
    lines = section(list(report_lines(fake_study(tmp_path), "fake", [RESULTS[0], *watched])), "Panel")
    assert "| row | gap | score | alarms (runs, first step) | runs |" in lines
    assert "| unigrpo | 0.15 -> 0.4 | 0.5 -> 0.8 | gap (1, 20) | 2 |" in lines
    assert "## Panel" not in page(tmp_path)


def test_commands_and_origin(tmp_path: Path) -> None:
    lines = section(page(tmp_path), "How to run it again")
    assert "unigrpo reproduce fake --rows unigrpo --seeds 2" in lines
    assert "| `unigrpo reproduce fake` | 123 | 2 cores, Linux | torch 2 | 6 |" in lines
    assert "Between 2026-01-01 and 2026-01-09; 3 minutes of runs, as many at a time as there were lanes." in lines
    assert "| unigrpo/sft-seed1 | abc |" in lines


def test_where_no_run_ended_well_the_page_says_so(tmp_path: Path) -> None:
    lines = list(report_lines(fake_study(tmp_path), "fake", [RESULTS[-1]]))
    assert "No run ended well." in lines
    assert "- unigrpo/base-seed0: metric loss of step 4 is nan" in lines


def test_a_report_is_written_from_what_is_finished(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    with pytest.raises(ConfigError, match="nothing of fake is finished"):
        write_report(study, "fake")
    for result in (*RESULTS, fake_result("gone", "sft", 0, 0.1)):
        folder = f"{result.start}-seed{result.seed}" if result.seed is not None else result.start
        result.write(tmp_path / result.row / folder)
    assert [(each.row, each.start, each.seed) for each in results_of(study)] == [(r.row, r.start, r.seed) for r in RESULTS]
    path = write_report(study, "fake")
    assert path.read_text().startswith("# Study fake\n\nWhich is best?\n")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_curves_are_means_and_spread_over_runs() -> None:
    assert band([[(0, 0.1), (5, 0.4)], [(0, 0.3)]]) == [(0, pytest.approx(0.2), 0.1, 0.3), (5, 0.4, 0.4, 0.4)]
    assert smoothed([(1, 0.0), (2, 1.0), (3, 0.5)], width=2) == [(2, 0.5), (3, 0.5)]
