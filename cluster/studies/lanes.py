"""Several started systems side by side, each in a thread of the driver, that take runs from one queue."""

import logging
import math
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Event
from types import FrameType
from typing import Any

from cluster.faults import Fault
from cluster.judging import Tally
from cluster.placement import Role
from cluster.pool import Pool
from cluster.studies.plan import Run
from cluster.view import View
from cluster.workers import Workers
from configs.load import ConfigError

log = logging.getLogger(__name__)

TOLD_EVERY = 20
"""Steps between lines of one lane."""
LISTEN_EVERY = 1.0
"""Longest time without attention to signals, in seconds."""


class Stopped(Exception):
    """The user asked for an end; the lane's run goes on from its checkpoint another time."""


class LaneView(View):
    """The view of one run beside others: labelled, a line now and then, and where a lane learns that it is to stop."""

    def __init__(self, total_steps: int, *, label: str, stop: Event) -> None:
        super().__init__(total_steps, label=label)
        self._stop = stop

    def stage(self, name: str) -> None:
        self._go_on()
        super().stage(name)

    def stages(self, pools: Sequence[Pool], tally: Tally) -> None:
        self._go_on()
        super().stages(pools, tally)

    def step(self, step: int, row: Mapping[str, Any], *, told: bool = True) -> None:
        super().step(step, row, told=told and step % TOLD_EVERY == 0)

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise Stopped


Work = Callable[[Run, Workers, Callable[[int], View]], None]
"""Takes one run to its result on started workers, with views of so many steps."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A run that came to no result, and why."""

    run: Run
    error: Exception


def run_lanes(runs: Sequence[Run], num_lanes: int, work: Work) -> tuple[list[Failure], list[Run]]:
    """Do runs, `num_lanes` at a time, the first ones first; those that failed, and those that no lane is left for.

    A run that fails ends its lane, whose workers may be lost or busy for good; the others go on with what is left. An interrupt
    stops every lane at its next stage; KeyboardInterrupt is raised once all have stopped. Called in the main thread.
    """
    waiting, failures, stop = deque(runs), list[Failure](), Event()

    def lane() -> None:
        workers = Workers()
        while waiting and not stop.is_set():
            try:
                run = waiting.popleft()
            except IndexError:  # another lane took it
                return
            try:
                work(run, workers, partial(LaneView, label=run.name, stop=stop))
            except Stopped:
                log.warning("%s stopped; the same command goes on with it", run.name)
                return
            except Exception as error:
                unexpected = None if isinstance(error, ConfigError | Fault) else error
                log.error("%s failed: %s", run.name, error, exc_info=unexpected)
                failures.append(Failure(run=run, error=error))
                return

    with _interrupts_set(stop), ThreadPoolExecutor(max_workers=num_lanes, thread_name_prefix="lane") as pool:
        lanes = [pool.submit(lane) for _ in range(num_lanes)]
        while wait(lanes, timeout=LISTEN_EVERY).not_done:
            pass  # a signal just before a wait is heard after it
    if stop.is_set():
        raise KeyboardInterrupt
    for each in lanes:
        each.result()
    return failures, list(waiting)


@contextmanager
def _interrupts_set(stop: Event) -> Iterator[None]:
    """Within, the first interrupt sets `stop` and raises nothing; a second one is raised as ever.

    Two of them raised in the midst of a wait leave its lock in disorder.
    """

    def interrupted(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        stop.set()

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def num_that_fit(roles: Sequence[Role], total: Mapping[str, float]) -> int:
    """How many systems with these roles the cluster has room for; at least one, whose start then says what is lacking."""
    wanted: dict[str, float] = {}
    for role in roles:
        for name, amount in role.ask.bundle.items():
            wanted[name] = wanted.get(name, 0.0) + role.num_workers * amount
    fit = min(total.get(name, 0.0) / amount for name, amount in wanted.items())
    return max(1, math.floor(fit + 1e-9))
