"""The one way to wait: with a deadline, and a message that names what is still pending."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray import ObjectRef


class Stalled(RuntimeError):
    """A call did not end before its deadline."""


def wait_any(pending: Mapping[ObjectRef, str], *, timeout: float) -> list[ObjectRef]:
    """Those of `pending` (reference -> what it is and where it runs) that are ready; at least one.

    timeout: seconds. Raises Stalled, naming everything pending, when none is ready by then.
    """
    ready, _ = ray.wait(list(pending), num_returns=1, timeout=timeout, fetch_local=False)
    if not ready:
        raise Stalled(_message(pending.values(), timeout))
    more, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0, fetch_local=False)
    return more


def wait_all(calls: Mapping[str, ObjectRef], *, timeout: float) -> list[Any]:
    """The results of `calls` (what it is and where it runs -> reference), in order.

    A call that fails is raised as soon as it has: those beside it may wait in a collective for the one that failed.
    timeout: seconds for all of them together. Raises Stalled, naming those not ready, when it has passed.
    """
    deadline = time.monotonic() + timeout
    pending = list(calls.values())
    while pending:
        ready, pending = ray.wait(pending, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise Stalled(_message([name for name, ref in calls.items() if ref in pending], timeout))
        ray.get(ready)
    return ray.get(list(calls.values()))


def _message(names: Iterable[str], timeout: float) -> str:
    listed = "\n".join(f"  {name}" for name in names)
    return (
        f"nothing came back for {timeout:g} s; pending:\n{listed}\n"
        "look at the actor's log under /tmp/ray/session_latest/logs, or raise cluster.call_timeout"
    )
