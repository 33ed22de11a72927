"""The one way to wait: with a deadline, and a message that names what is still pending."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import RayActorError, RayError

from cluster.faults import Lost as Lost, Stalled as Stalled

GRACE = 5.0
"""Seconds for Ray to notice that a worker died, after another has failed in a collective with it."""


def wait_any(pending: Iterable[ObjectRef], *, timeout: float) -> list[ObjectRef]:
    """Those of `pending` that are ready: at least one, or none when `timeout` seconds have passed."""
    refs = list(pending)
    ready, _ = ray.wait(refs, num_returns=1, timeout=timeout, fetch_local=False)
    if ready:
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
    return list(ready)


def wait_all(calls: Mapping[str, ObjectRef], *, timeout: float) -> list[Any]:
    """The results of `calls` (what it is and where it runs -> reference), in order.

    A call that fails is raised as soon as it has: those beside it may wait in a collective for the one that failed.
    timeout: seconds for all of them together. Raises Stalled, naming those not ready, when it has passed, and Lost, naming the
    call, when its worker died.
    """
    deadline = time.monotonic() + timeout
    pending = {ref: name for name, ref in calls.items()}
    while pending:
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise stalled(pending.values(), timeout=timeout)
        try:
            ray.get(ready)
        except RayError:
            _raise_lost(pending)
            raise
        del pending[ready[0]]
    return ray.get(list(calls.values())) if calls else []


def _raise_lost(pending: Mapping[ObjectRef, str]) -> None:
    ended, _ = ray.wait(list(pending), num_returns=len(pending), timeout=GRACE)
    for ref in ended:
        try:
            ray.get(ref)
        except RayActorError as error:
            raise Lost(f"{pending[ref]}: its process died, start the run again to resume it. {error}") from error
        except RayError:
            continue  # the caller raises what came first


def stalled(names: Iterable[str], *, timeout: float) -> Stalled:
    """The error for calls (what each is and where it runs) that did not end in `timeout` seconds."""
    listed = "\n".join(f"  {name}" for name in names)
    return Stalled(
        f"nothing came back for {timeout:g} s; pending:\n{listed}\n"
        "look at the actor's log under /tmp/ray/session_latest/logs, or raise cluster.call_timeout"
    )
