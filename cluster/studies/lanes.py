"""Several started systems side by side, each in a thread of the driver, that take runs from one queue."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from threading import Event
from typing import Any

from cluster.judging import Tally
from cluster.placement import Role
from cluster.pool import Pool
from cluster.studies.plan import Run
from cluster.view import View
from cluster.workers import Workers

TOLD_EVERY = 20
"""Steps between lines of one lane."""


class Stopped(Exception):
    """Another lane failed, or the user asked for an end; this one's run goes on from its checkpoint another time."""


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


def run_lanes(runs: Sequence[Run], num_lanes: int, work: Work) -> None:
    """Do all runs, `num_lanes` at a time, the first ones first.

    What fails in one lane stops the others at the next stage of theirs, and is raised; so does an interrupt.
    """
    waiting, stop = deque(runs), Event()

    def lane() -> None:
        workers = Workers()
        while waiting and not stop.is_set():
            try:
                run = waiting.popleft()
            except IndexError:  # another lane took it
                return
            work(run, workers, partial(LaneView, label=run.name, stop=stop))

    with ThreadPoolExecutor(max_workers=num_lanes, thread_name_prefix="lane") as pool:
        lanes = [pool.submit(lane) for _ in range(num_lanes)]
        try:
            wait(lanes, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    faults = [fault for each in lanes if (fault := each.exception()) is not None]
    for fault in sorted(faults, key=lambda fault: isinstance(fault, Stopped)):
        raise fault


def num_that_fit(roles: Sequence[Role], total: Mapping[str, float]) -> int:
    """How many systems with these roles the cluster has room for; at least one, whose start then says what is lacking."""
    wanted: dict[str, float] = {}
    for role in roles:
        for name, amount in role.ask.bundle.items():
            wanted[name] = wanted.get(name, 0.0) + role.num_workers * amount
    fit = min(total.get(name, 0.0) / amount for name, amount in wanted.items())
    return max(1, math.floor(fit + 1e-9))
