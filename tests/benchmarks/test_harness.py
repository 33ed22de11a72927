from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import harness
from benchmarks.harness import Figure, Timings, read, report, show, take_turns
from benchmarks.idle import covered, driver_view, executions


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        (Figure(name="a", value=2.3, unit="x", at_least=2.3), ">= 2.3 met"),
        (Figure(name="a", value=2.2, unit="x", at_least=2.3), ">= 2.3 MISSED"),
        (Figure(name="a", value=1.25, unit="x", at_most=1.25), "<= 1.25 met"),
        (Figure(name="a", value=1.3, unit="x", at_most=1.25), "<= 1.25 MISSED"),
        (Figure(name="a", value=0.0, unit="%", at_most=5), "<= 5 met"),
        (Figure(name="a", value=7, unit="GB/s"), ""),
    ],
)
def test_verdict_names_target_and_outcome(figure: Figure, verdict: str) -> None:
    assert figure.verdict == verdict


def test_ratio_is_taken_within_turns() -> None:
    timings = Timings({"slow": [2.0, 30.0, 6.0], "fast": [1.0, 10.0, 1.0]})  # ratios 2, 3, 6; medians 6 and 1
    assert timings.ratio("slow", "fast") == 3


def test_turns_alternate_their_order_after_a_warm_up() -> None:
    order: list[str] = []

    def note(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    timings = take_turns({"a": note("a"), "b": note("b")}, turns=3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(seconds) for name, seconds in timings.seconds.items()} == {"a": 3, "b": 3}


def test_report_is_read_back_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    figures = [Figure(name="speed", value=1234.5, unit="tokens/s"), Figure(name="ratio", value=2, unit="x", at_least=3)]
    report("painting", figures)
    measurement = read("painting")
    assert (measurement.name, measurement.figures) == ("painting", figures)
    capsys.readouterr()
    show(Console(width=160), [measurement])
    shown = capsys.readouterr().out
    assert "1,234 tokens/s" in shown
    assert ">= 3 MISSED" in shown
    assert "threads a process: 1" in shown


def test_covered_counts_overlaps_once_and_clips() -> None:
    spans = [(-1.0, 1.0), (0.5, 2.0), (1.0, 1.5), (4.0, 9.0)]  # within (0, 6): 0..2 and 4..6
    assert covered(spans, (0.0, 6.0)) == 4
    assert covered([], (0.0, 6.0)) == 0
    assert covered([(7.0, 8.0)], (0.0, 6.0)) == 0


def test_executions_are_the_whole_tasks_of_the_stages() -> None:
    events = [
        {"cat": "task::DenoiserActor.load", "name": "load", "ph": "X", "ts": 2e6, "dur": 5e5},
        {"cat": "task::LearnerActor.publish", "name": "publish", "ph": "X", "ts": 1e6, "dur": 1e6},
        {"cat": "task::LearnerActor.save", "name": "save", "ph": "X", "ts": 0.0, "dur": 1e6},
        {"cat": "task:execute", "name": "task:execute", "ph": "X", "ts": 1e6, "dur": 1e6},
    ]
    spans = executions(events)
    assert spans["syncing"] == [(2.0, 2.5), (1.0, 2.0)]
    assert not any(spans[stage] for stage in spans if stage != "syncing")


def test_driver_view_counts_what_no_stage_covers() -> None:
    steps = [(0.0, 10.0), (10.0, 20.0)]
    rows = [{"seconds/rollout": 5.0, "seconds/update": 3.0, "seconds/sync": 1.0}] * 2  # 1 s beside stages, each step
    spans = [(0.0, 4.0), (2.0, 5.0), (10.5, 14.5)]  # all of the first rollout, 4 s of the second
    assert driver_view(steps, spans, rows).value == pytest.approx(100 * 3 / 20)
