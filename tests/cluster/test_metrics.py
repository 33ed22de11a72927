"""Metrics of a resumed run are those of one that was never interrupted."""

import math
from pathlib import Path

import pytest

from cluster.metrics import WALL_CLOCK, Clock, Metrics, read_rows


def written(run_dir: Path, rows: list[tuple[str, int]]) -> Metrics:
    metrics = Metrics(run_dir)
    metrics.resume(0)
    for kind, step in rows:
        metrics.log(kind, step, {"value": float(step)})
    return metrics


def kept(run_dir: Path) -> list[tuple[str, int]]:
    return [(row["kind"], row["step"]) for row in read_rows(run_dir / "metrics.jsonl")]


def test_resuming_cuts_training_rows_after_and_evaluation_rows_from_the_restored_step(tmp_path: Path) -> None:
    written(tmp_path, [("evaluation", 0), ("train", 1), ("train", 2), ("evaluation", 2), ("train", 3)])
    Metrics(tmp_path).resume(2)
    assert kept(tmp_path) == [("evaluation", 0), ("train", 1), ("train", 2)]


def test_a_row_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    written(tmp_path, [("train", 1)])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    assert kept(tmp_path) == [("train", 1)]
    Metrics(tmp_path).resume(1)
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1


def test_a_number_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    metrics = written(tmp_path, [])
    with pytest.raises(FloatingPointError, match=r"metric loss of step 4 is nan"):
        metrics.log("train", 4, {"loss": math.nan})
    assert kept(tmp_path) == []


def test_tensorboard_holds_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written(tmp_path, [("train", 1), ("train", 2)])
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/value")] == [(1, 1.0), (2, 2.0)]


def test_the_clock_names_its_fields_as_wall_clock() -> None:
    clock = Clock()
    with clock("update"):
        pass
    assert list(clock.seconds) == [WALL_CLOCK + "update"]
    assert clock.seconds[WALL_CLOCK + "update"] >= 0


def test_the_clock_tells_which_stage_begins() -> None:
    begun: list[str] = []
    clock = Clock(begun.append)
    with clock("rollout"), clock("update"):
        assert begun == ["rollout", "update"]
