"""What a person reads where the output is a file: one line a step, with the time left."""

import io

import pytest
from rich.console import Console

from cluster.judging import Tally
from cluster.pool import Pool
from cluster.view import View
from tests.cluster.fakes import fake_ref


def fake_pool() -> Pool:
    """A stage without workers."""
    return Pool(role="reasoner", workers=[], revive=lambda worker: fake_ref())


ROW = {"reward/mean": 0.75, "seconds/rollout": 2.0, "seconds/update": 1.0, "seconds/sync": 1.0, "seconds/reasoner": 1.5}


def test_a_step_is_a_line_with_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with View(31) as view:
        view.stage("rollout")
        view.stages([], Tally())
        view.step(1, ROW)
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("step 1/31  reward 0.75  think s 1.5")
    assert line.endswith("left 2m00s")  # thirty steps of four seconds


def test_the_live_table_names_step_stage_and_work() -> None:
    view = View(10)
    view.stage("rollout")
    shown = Console(width=80, record=True, file=io.StringIO())
    shown.print(view._render([fake_pool()], Tally(groups=4, asked=96, retried=3, dropped=1)))
    text = shown.export_text()
    assert "step 1 of 10: rollout" in text
    assert "reasoner" in text
    assert "scores asked 96, again 3, from memory 0, failed 0; groups dropped 1 of 4" in " ".join(text.split())


def test_overlapping_jobs_of_a_stage_count_once() -> None:
    pool = fake_pool()
    pool.spans += [(0.0, 2.0), (1.0, 3.0), (5.0, 6.0), (5.5, 5.6)]
    assert pool.seconds() == 4.0


def test_after_a_silence_a_file_is_told_what_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("cluster.view.time.monotonic", lambda: now[0])
    with View(0) as view:
        for now[0] in (1.0, 9.0, 11.0, 12.0):
            view.stages([fake_pool()], Tally(asked=5))
    assert capsys.readouterr().out == "evaluation: reasoner 0 working, 0 waiting; scores asked 5\n"


def test_steps_that_come_fast_are_told_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("cluster.view.time.monotonic", lambda: now[0])
    with View(31) as view:
        for step, now[0] in enumerate((1.0, 2.0, 13.0, 14.0), start=1):
            view.step(step, ROW, told=step == 1)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["1/31", "3/31"]


def test_a_view_beside_others_says_whose_line_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with View(2, label="unigrpo/sft-seed0") as view:
        view.say("evaluation [strict]")
    assert capsys.readouterr().out == "unigrpo/sft-seed0: evaluation [strict]\n"
