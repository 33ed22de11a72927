"""Workers of one role that take the next piece of work when they are free, and the loop that drives several roles at once.

A worker that died is started again by Ray; here its piece goes back to the queue and the worker is refilled with weights before
it is given another. Timing decides who takes a piece and when, never what a piece holds.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from cluster.faults import Lost
from cluster.wait import stalled, wait_any
from unigrpo.errors import NotServing

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
"""Workers one piece may be lost with: a piece that kills every worker is a fault of its own."""


@dataclass(kw_only=True, eq=False)
class Job:
    """One piece of work for any worker of a pool."""

    name: str
    """What it is, for messages."""
    submit: Callable[[ActorHandle], Sequence[ObjectRef]]
    """Starts it on a worker; the first reference says when it has ended."""
    done: Callable[[Sequence[ObjectRef]], None]
    """Takes the references of a job that ended well."""
    not_before: float = 0.0
    """Earliest start (time.monotonic)."""
    restart_after: float | None = None
    """Seconds on a worker before the worker counts as hung and is started again; None leaves it to the run's deadline."""
    restart_if: Callable[[Any], bool] = lambda answer: False
    """Whether the worker that gave this answer is to be started again before it is given more."""
    given_up: Callable[[str], None] | None = None
    """Takes the reason when the job was lost with MAX_ATTEMPTS workers; None ends the run."""
    attempts: int = 0


@dataclass(kw_only=True, eq=False)
class Busy:
    """A call under way."""

    index: int
    """Of its worker."""
    job: Job | None
    """None while a lost worker is revived."""
    refs: Sequence[ObjectRef]
    started: float = field(default_factory=time.monotonic)
    ended: bool = False
    """Its worker hung and was ended; Ray will say so."""

    def deadline(self, timeout: float) -> float:
        """When it should have ended (time.monotonic); `timeout` in seconds holds where its job says nothing else."""
        own = self.job.restart_after if self.job else None
        if own is None:
            return self.started + timeout
        return self.started + own + (timeout if self.ended else 0.0)


@dataclass(kw_only=True, eq=False)
class Pool:
    """The workers of one role and the jobs that wait for them."""

    role: str
    workers: Sequence[ActorHandle]
    revive: Callable[[ActorHandle], ObjectRef]
    """Waits for a lost worker to be back and, where the role has weights, fills it again."""
    queue: deque[Job] = field(default_factory=deque)
    busy: dict[ObjectRef, Busy] = field(default_factory=dict)
    spans: list[tuple[float, float]] = field(default_factory=list)
    """(start, end) in seconds of every job since the batch began, for the time a stage was busy."""

    def seconds(self) -> float:
        """Seconds in which at least one worker was busy, over the spans noted so far."""
        return covered(self.spans)

    def add(self, job: Job) -> None:
        """Queue a job."""
        self.queue.append(job)

    def withdraw(self, job: Job) -> None:
        """Forget a job that has not begun."""
        if job in self.queue:
            self.queue.remove(job)

    def dispatch(self) -> None:
        """Give the oldest jobs that may start to the workers that are free."""
        now = time.monotonic()
        taken = {busy.index for busy in self.busy.values()}
        for index, worker in enumerate(self.workers):
            job = next((job for job in self.queue if job.not_before <= now), None)
            if job is None:
                return
            if index not in taken:
                self.queue.remove(job)
                refs = job.submit(worker)
                self.busy[refs[0]] = Busy(index=index, job=job, refs=refs)

    def pending(self) -> dict[ObjectRef, str]:
        """What runs where, for messages."""
        return {
            ref: f"{busy.job.name if busy.job else 'revival'} on {self.role} {busy.index}" for ref, busy in self.busy.items()
        }

    def next_event(self, timeout: float) -> float:
        """When something is to be done even if no call ends (time.monotonic), inf for never.

        timeout: seconds that a call may take whose job says nothing else.
        """
        deadlines = (busy.deadline(timeout) for busy in self.busy.values())
        starts = (job.not_before for job in self.queue if len(self.busy) < len(self.workers))
        return min([*deadlines, *starts], default=math.inf)

    def expire(self, timeout: float) -> None:
        """End the workers whose call is past its deadline and whose job asks for it.

        timeout: seconds, as in next_event. Raises Stalled, naming all that is pending, for any other such call.
        """
        now = time.monotonic()
        for ref, busy in self.busy.items():
            if now < busy.deadline(timeout):
                continue
            if busy.ended or busy.job is None or busy.job.restart_after is None:
                raise stalled(self.pending().values(), timeout=timeout)
            log.warning("%s did not end in %g s: starting the worker again", self.pending()[ref], busy.job.restart_after)
            busy.ended = True
            ray.kill(self.workers[busy.index], no_restart=False)

    def finish(self, ref: ObjectRef) -> None:
        """Take the outcome of a call that ended: hand it on, or requeue it when its worker was lost."""
        busy = self.busy.pop(ref)
        try:
            answer = ray.get(ref)
        except (RayActorError, RayTaskError) as error:
            if busy.job is None or not _lost_its_state(error):
                raise
            self._recover(busy.index, busy.job, error)
            return
        if busy.job is not None:
            self.spans.append((busy.started, time.monotonic()))
            if busy.job.restart_if(answer):
                log.warning("%s on %s %d: starting the worker again", busy.job.name, self.role, busy.index)
                ray.kill(self.workers[busy.index], no_restart=False)
                self._revive(busy.index)
            busy.job.done(busy.refs)

    def _recover(self, index: int, job: Job, error: Exception) -> None:
        job.attempts += 1
        reason = f"{job.name} was lost with {job.attempts} workers of {self.role}; the last: {error}"
        lost = job.attempts >= MAX_ATTEMPTS
        if lost and job.given_up is None:
            raise Lost(reason) from error
        self._revive(index)
        if lost and job.given_up is not None:
            job.given_up(reason)
        else:
            self.queue.appendleft(job)

    def _revive(self, index: int) -> None:
        ref = self.revive(self.workers[index])
        self.busy[ref] = Busy(index=index, job=None, refs=[ref])


def drive(pools: Sequence[Pool], *, timeout: float, watch: Callable[[], Any] = lambda: None) -> None:
    """Run until every queue is empty and every worker idle.

    timeout: seconds one call may take, where its job says nothing else, before the run ends. watch: called after each change,
    for the terminal view. Raises Stalled, naming what is pending, for a call past its deadline.
    """
    while True:
        for pool in pools:
            pool.expire(timeout)
            pool.dispatch()
        watch()
        pending = {ref: pool for pool in pools for ref in pool.busy}
        if not pending and not any(pool.queue for pool in pools):
            return
        left = max(0.0, min(pool.next_event(timeout) for pool in pools) - time.monotonic())
        if pending:
            for ref in wait_any(pending, timeout=left):
                pending[ref].finish(ref)
        else:
            time.sleep(left)  # nothing runs: every job waits for its time


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that at least one of the (start, end) spans covers."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _lost_its_state(error: Exception) -> bool:
    return isinstance(error, RayActorError) or isinstance(getattr(error, "cause", None), NotServing)
