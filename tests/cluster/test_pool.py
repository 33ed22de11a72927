"""Pools on a real Ray: free workers take the next piece, lost workers are revived, nothing waits for ever."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from cluster.pool import Job, Pool, drive
from cluster.wait import Stalled, wait_all
from unigrpo.errors import NotServing


class FakeWorker:
    """Serves nothing until it is loaded, as a restarted worker does."""

    def __init__(self) -> None:
        self._version: int | None = None

    def load(self, version: int) -> int:
        self._version = version
        return version

    def double(self, number: int, version: int) -> int:
        if self._version != version:
            raise NotServing(f"serving {self._version}")
        return 2 * number

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fail(self) -> None:
        raise ValueError("a fault of the piece")

    def hang(self) -> None:
        signal.pause()


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def pool_of(num_workers: int) -> Pool:
    workers = [ray.remote(FakeWorker).options(num_cpus=0, max_restarts=-1).remote() for _ in range(num_workers)]
    return Pool(role="fake", workers=workers, revive=lambda worker: worker.load.options(max_task_retries=-1).remote(7))


def double(number: int, results: list[Any]) -> Job:
    return Job(
        name=f"double {number}",
        submit=lambda worker: [worker.double.remote(number, 7)],
        done=lambda refs: results.append(ray.get(refs[0])),
    )


def test_every_piece_is_done_once_and_fresh_workers_are_filled_first() -> None:
    pool = pool_of(2)
    results: list[int] = []
    for number in range(6):
        pool.add(double(number, results))
    drive([pool], timeout=60)
    assert sorted(results) == [0, 2, 4, 6, 8, 10]
    assert len(pool.spans) == 6


def test_a_killed_worker_is_revived_and_its_piece_done_again() -> None:
    pool = pool_of(1)
    results: list[int] = []
    deaths = iter([True])
    pool.add(
        Job(
            name="deadly once",
            submit=lambda worker: [worker.die.remote() if next(deaths, False) else worker.double.remote(21, 7)],
            done=lambda refs: results.append(ray.get(refs[0])),
        )
    )
    drive([pool], timeout=60)
    assert results == [42]


@pytest.mark.slow
def test_a_piece_that_kills_every_worker_ends_the_run() -> None:
    pool = pool_of(1)
    pool.add(Job(name="deadly", submit=lambda worker: [worker.die.remote()], done=lambda refs: None))
    with pytest.raises(RuntimeError, match=r"deadly was lost with 4 workers of fake"):
        drive([pool], timeout=60)


def test_a_fault_of_the_piece_is_raised_not_retried() -> None:
    pool = pool_of(1)
    pool.add(Job(name="faulty", submit=lambda worker: [worker.fail.remote()], done=lambda refs: None))
    with pytest.raises(ValueError, match=r"a fault of the piece"):
        drive([pool], timeout=60)


def test_work_that_follows_from_work_is_driven_too() -> None:
    first, second = pool_of(1), pool_of(1)
    results: list[int] = []
    first.add(
        Job(
            name="first",
            submit=lambda worker: [worker.double.remote(5, 7)],
            done=lambda refs: second.add(double(ray.get(refs[0]), results)),
        )
    )
    drive([first, second], timeout=60)
    assert results == [20]


def test_a_deadline_names_what_is_pending_and_where() -> None:
    pool = pool_of(1)
    pool.add(Job(name="endless", submit=lambda worker: [worker.hang.remote()], done=lambda refs: None))
    with pytest.raises(Stalled, match=r"(?s)nothing came back for 0.5 s.*endless on fake 0"):
        drive([pool], timeout=0.5)
    with pytest.raises(Stalled, match=r"endless call"):
        wait_all({"endless call": pool.workers[0].pid.remote()}, timeout=0.5)


@pytest.mark.slow
def test_a_worker_that_hangs_is_started_again_where_its_job_says_so() -> None:
    pool = pool_of(1)
    pid = ray.get(pool.workers[0].pid.remote())
    results: list[int] = []
    stops = iter([True])

    def submit(worker: Any) -> list[Any]:
        if next(stops, False):
            os.kill(pid, signal.SIGSTOP)
        return [worker.double.remote(21, 7)]

    pool.add(Job(name="hangs once", submit=submit, done=lambda refs: results.append(ray.get(refs[0])), restart_after=1.0))
    drive([pool], timeout=60)
    assert results == [42]
    assert ray.get(pool.workers[0].pid.remote()) != pid


def test_a_job_waits_for_its_time_and_those_behind_it_do_not() -> None:
    pool = pool_of(1)
    results: list[int] = []
    later = double(1, results)
    later.not_before = time.monotonic() + 0.4
    pool.add(later)
    pool.add(double(2, results))
    drive([pool], timeout=60)
    assert results == [4, 2]
    assert time.monotonic() >= later.not_before


@pytest.mark.slow
def test_a_failed_call_is_raised_while_those_beside_it_still_wait() -> None:
    hanging, failing = pool_of(2).workers
    with pytest.raises(ValueError, match=r"a fault of the piece"):
        wait_all({"hangs": hanging.hang.remote(), "fails": failing.fail.remote()}, timeout=60)
