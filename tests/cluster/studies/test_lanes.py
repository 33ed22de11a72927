"""Lanes take runs from one queue, and one that fails leaves the rest to the others."""

import os
import signal
from collections.abc import Callable
from threading import Barrier, Event, current_thread
from typing import Any

import pytest

from cluster.faults import Lost
from cluster.placement import Role
from cluster.studies.lanes import LaneView, Stopped, num_that_fit, run_lanes
from cluster.studies.plan import Run, runs_of
from cluster.view import View
from cluster.workers import Workers
from configs.roles import Placement
from tests.cluster.studies.fakes import CONFIGS, fake_study


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return runs_of(fake_study(tmp_path_factory.mktemp("study")), CONFIGS)


def test_every_run_is_done_once_and_each_lane_keeps_its_workers(runs: list[Run]) -> None:
    done: list[str] = []
    workers_of: dict[str, set[int]] = {}
    together = Barrier(2, timeout=20)

    def work(run: Run, workers: Workers, watching: Callable[[int], View]) -> None:
        if run in runs[:2]:
            together.wait()  # both lanes are at work
        done.append(run.name)
        workers_of.setdefault(current_thread().name, set()).add(id(workers))

    run_lanes(runs, 2, work)
    assert sorted(done) == sorted(run.name for run in runs)
    assert [len(each) for each in workers_of.values()] == [1, 1]


def test_a_run_that_fails_ends_its_lane_and_the_others_go_on(runs: list[Run]) -> None:
    done: list[str] = []
    failed = Event()

    def work(run: Run, workers: Workers, watching: Callable[[int], View]) -> None:
        if run is runs[0]:
            failed.set()
            raise Lost("rank 0 died")
        assert failed.wait(20)
        done.append(run.name)

    failures, left = run_lanes(runs, 2, work)
    assert [(each.run, str(each.error)) for each in failures] == [(runs[0], "rank 0 died")]
    assert (done, left) == ([run.name for run in runs[1:]], [])


def test_what_no_lane_came_to_is_left(runs: list[Run]) -> None:
    def work(run: Run, workers: Workers, watching: Callable[[int], View]) -> None:
        raise ValueError("broken")

    failures, left = run_lanes(runs, 1, work)
    assert ([each.run for each in failures], left) == (runs[:1], runs[1:])


@pytest.mark.parametrize("signals", [1, 2])
def test_an_interrupt_stops_the_lanes_at_their_next_stage(runs: list[Run], signals: int) -> None:
    before = signal.getsignal(signal.SIGINT)
    together, ended = Barrier(2, timeout=20), set[str]()

    def work(run: Run, workers: Workers, watching: Callable[[int], View]) -> None:
        view = watching(10)
        if together.wait() == 0:
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGINT)
        try:
            while True:
                view.stage("rollout")
        except Stopped:
            ended.add(run.name)
            raise

    with pytest.raises(KeyboardInterrupt):
        run_lanes(runs, 2, work)
    assert ended == {run.name for run in runs[:2]}
    assert signal.getsignal(signal.SIGINT) is before


def test_a_lane_says_a_line_now_and_then_with_its_runs_name(capsys: pytest.CaptureFixture[str]) -> None:
    stop = Event()
    view = LaneView(40, label="unigrpo/sft-seed0", stop=stop)
    row: dict[str, Any] = {"reward/mean": 0.5, "seconds/rollout": 1.0}
    for step in range(1, 41):
        view.step(step, row)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["unigrpo/sft-seed0: step 20/40", "unigrpo/sft-seed0: step 40/40"]
    view.stage("rollout")
    stop.set()
    with pytest.raises(Stopped):
        view.stage("rollout")


def fake_role(name: str, num_cpus: float, num_workers: int = 1, num_gpus: float = 0.0) -> Role:
    placement = Placement(num_cpus=num_cpus, num_gpus=num_gpus)
    none: Any = None
    return Role(name=name, actor=object, placement=placement, num_workers=num_workers, arguments=none, environment={}, keeps={})


@pytest.mark.parametrize(
    ("total", "fit"), [({"CPU": 2.0}, 2), ({"CPU": 1.9}, 1), ({"CPU": 0.5}, 1), ({"CPU": 64.0, "GPU": 3.0}, 64)]
)
def test_as_many_lanes_as_the_cluster_has_room_for(total: dict[str, float], fit: int) -> None:
    assert num_that_fit([fake_role("reasoner", 0.2), fake_role("denoiser", 0.4, 2)], total) == fit


def test_the_scarcest_resource_decides() -> None:
    roles = [fake_role("denoiser", 0.5, num_gpus=1), fake_role("learner", 0.5, num_gpus=1)]
    assert num_that_fit(roles, {"CPU": 64.0, "GPU": 5.0}) == 2
