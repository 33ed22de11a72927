"""Workers of one role that take the next piece of work when they are free, and the loop that drives several roles at once.

A worker that died is started again by Ray; here its piece goes back to the queue and the worker is refilled with weights before
it is given another. Timing decides who takes a piece and when, never what a piece holds.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from cluster.faults import Lost
from cluster.wait import wait_any
from unigrpo.errors import NotServing

MAX_ATTEMPTS = 4
"""Workers one piece may be lost with before the run ends: a piece that kills every worker is a fault of its own."""


@dataclass(kw_only=True)
class Job:
    """One piece of work for any worker of a pool."""

    name: str
    """What it is, for messages."""
    submit: Callable[[ActorHandle], Sequence[ObjectRef]]
    """Starts it on a worker; the first reference says when it has ended."""
    done: Callable[[Sequence[ObjectRef]], None]
    """Takes the references of a job that ended well."""
    attempts: int = 0


@dataclass(kw_only=True, eq=False)
class Pool:
    """The workers of one role and the jobs that wait for them."""

    role: str
    workers: Sequence[ActorHandle]
    revive: Callable[[ActorHandle], ObjectRef]
    """Waits for a lost worker to be back and, where the role has weights, fills it again."""
    queue: deque[Job] = field(default_factory=deque)
    busy: dict[ObjectRef, tuple[int, Job | None, Sequence[ObjectRef], float]] = field(default_factory=dict)
    spans: list[tuple[float, float]] = field(default_factory=list)
    """(start, end) in seconds of every job since the batch began, for the time a stage was busy."""

    def seconds(self) -> float:
        """Seconds in which at least one worker was busy, over the spans noted so far."""
        total, reached = 0.0, -math.inf
        for start, end in sorted(self.spans):
            total += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return total

    def add(self, job: Job) -> None:
        """Queue a job."""
        self.queue.append(job)

    def dispatch(self) -> None:
        """Give the oldest jobs to the workers that are free."""
        taken = {index for index, *_ in self.busy.values()}
        for index, worker in enumerate(self.workers):
            if index not in taken and self.queue:
                job = self.queue.popleft()
                refs = job.submit(worker)
                self.busy[refs[0]] = (index, job, refs, time.perf_counter())

    def pending(self) -> dict[ObjectRef, str]:
        """What runs where, for the wait and its message."""
        return {
            ref: f"{job.name if job else 'revival'} on {self.role} {index}" for ref, (index, job, _, _) in self.busy.items()
        }

    def finish(self, ref: ObjectRef) -> None:
        """Take the outcome of a call that ended: hand it on, or requeue it when its worker was lost."""
        index, job, refs, started = self.busy.pop(ref)
        try:
            ray.get(ref)
        except (RayActorError, RayTaskError) as error:
            if job is None or not _lost_its_state(error):
                raise
            self._recover(index, job, error)
            return
        if job is not None:
            self.spans.append((started, time.perf_counter()))
            job.done(refs)

    def _recover(self, index: int, job: Job, error: Exception) -> None:
        job.attempts += 1
        if job.attempts >= MAX_ATTEMPTS:
            raise Lost(f"{job.name} was lost with {job.attempts} workers of {self.role}; the last: {error}") from error
        self.queue.appendleft(job)
        ref = self.revive(self.workers[index])
        self.busy[ref] = (index, None, [ref], time.perf_counter())


def drive(pools: Sequence[Pool], *, timeout: float, watch: Callable[[], Any] = lambda: None) -> None:
    """Run until every queue is empty and every worker idle.

    timeout: seconds without any call ending before the run ends. watch: called after each change, for the terminal view.
    """
    while True:
        for pool in pools:
            pool.dispatch()
        watch()
        pending = {ref: (name, pool) for pool in pools for ref, name in pool.pending().items()}
        if not pending:
            return
        for ref in wait_any({ref: name for ref, (name, _) in pending.items()}, timeout=timeout):
            pending[ref][1].finish(ref)


def _lost_its_state(error: Exception) -> bool:
    return isinstance(error, RayActorError) or isinstance(getattr(error, "cause", None), NotServing)
