"""Which pairs of rows are told, and how the paper's order shows in them."""

from pathlib import Path

from cluster.studies.order import differences_of, order_lines, replication_table
from cluster.studies.result import Result
from tests.cluster.studies.fakes import fake_result, fake_study

PAPER = {"sft": 0.82, "fpo": 0.85, "text_grpo": 0.88, "unigrpo": 0.90}
SCORES = {"sft": 0.5, "fpo": 0.7, "text_grpo": 0.6, "unigrpo": 0.8}
"""fpo stands above text_grpo here."""


def results(start: str = "sft", spread: float = 0.01, gain: float = 0.0) -> list[Result]:
    trained = [
        fake_result(row, start, seed, SCORES[row] + gain + spread * seed * (row == "unigrpo"))
        for row in SCORES
        if row != "sft"
        for seed in (0, 1)
    ]
    return [fake_result("sft", start, None, SCORES["sft"]), *trained]


def rows(paper: dict[str, float]) -> dict[str, object]:
    return {
        row: {"config": "../shapes/base.yaml", "trains": row != "sft", "paper": {"think": paper[row]} if row in paper else {}}
        for row in SCORES
    }


def test_pairs_with_the_papers_best_row_and_with_the_baseline_are_picked_out(tmp_path: Path) -> None:
    lines = list(order_lines(fake_study(tmp_path, rows=rows(PAPER)), results(), "think"))
    fold = next(place for place, line in enumerate(lines) if line.startswith("<details>"))
    pairs = [line.split(" |")[0] for line in lines[:fold] if " - " in line.split(" |")[0]]
    assert pairs == [
        "| fpo - sft",
        "| text_grpo - sft",
        "| unigrpo - sft",
        "| unigrpo - fpo",
        "| unigrpo - text_grpo",
    ]
    assert "| text_grpo - fpo | +.030 | -.100 (equal in 2 runs) | 2 | the other way round |" in lines[fold:]
    assert "The paper's order: unigrpo > text_grpo > fpo > sft." in lines
    assert "Of all 6 pairs that the paper tells apart: 5 as in the paper, 1 the other way round, 0 undecided." in lines
    assert "The other way round: fpo above text_grpo." in lines


def test_a_row_that_the_paper_has_no_figure_of_stands_beside_its_best(tmp_path: Path) -> None:
    unknown = {row: paper for row, paper in PAPER.items() if row != "fpo"}
    lines = list(order_lines(fake_study(tmp_path, rows=rows(unknown)), results(), "think"))
    assert "| fpo - unigrpo | – | -.105 [-.169, -.041] | 2 | below |" in lines
    assert "Of all 3 pairs that the paper tells apart: 3 as in the paper, 0 the other way round, 0 undecided." in lines


def test_pairs_of_single_runs_are_not_told(tmp_path: Path) -> None:
    single = [each for each in results() if each.seed in (None, 0)]
    for paper in (PAPER, {}):
        assert list(order_lines(fake_study(tmp_path, rows=rows(paper)), single, "think")) == []


def test_an_interval_that_holds_nothing_decides_nothing(tmp_path: Path) -> None:
    lines = list(order_lines(fake_study(tmp_path, rows=rows(PAPER)), results(spread=0.2), "think"))
    assert "| unigrpo - fpo | +.050 | +.200 [-1.071, +1.471] | 2 | undecided |" in lines


def test_a_study_without_the_papers_figures_tells_the_pairs_of_its_trained_rows_but_the_control(tmp_path: Path) -> None:
    lines = list(order_lines(fake_study(tmp_path, rows=rows({}), control="fpo"), results(), "think"))
    assert lines == [
        "| pair | here | runs compared | verdict |",
        "| --- | --- | --- | --- |",
        "| text_grpo - unigrpo | -.205 [-.269, -.141] | 2 | below |",
    ]


def test_where_one_row_alone_was_trained_there_is_no_pair(tmp_path: Path) -> None:
    told = [each for each in results() if each.row in ("sft", "unigrpo")]
    assert list(order_lines(fake_study(tmp_path, rows=rows({})), told, "think")) == []


def test_in_a_mode_that_the_paper_has_no_figures_for_the_pairs_of_trained_rows_are_folded_away(tmp_path: Path) -> None:
    lines = list(order_lines(fake_study(tmp_path, rows=rows(PAPER), control="fpo"), results(), "no_think"))
    assert lines[0] == "<details><summary>Pairs of trained rows, no_think</summary>"
    assert lines[4:] == ["| text_grpo - unigrpo | -.103 [-.134, -.071] | 2 | below |", "", "</details>"]


def test_a_replication_tells_the_pairs_of_its_rows_beside_the_first_start(tmp_path: Path) -> None:
    study = fake_study(tmp_path, rows=rows(PAPER))
    again = [each for each in results("base", gain=-0.2) if each.row in ("sft", "fpo")]
    found = [(start, differences_of(study, told, "think")) for start, told in (("sft", results()), ("base", again))]
    assert replication_table(found) == [
        "| pair | paper | from sft | verdict, sft | from base | verdict, base |",
        "| --- | --- | --- | --- | --- | --- |",
        "| fpo - sft | +.030 | +.200 (equal in 2 runs) | as in the paper | +.000 (equal in 2 runs) | undecided |",
    ]
