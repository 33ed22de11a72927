"""The one way to wait: with a deadline, and a message that names what is still pending."""

from collections.abc import Mapping, Sequence
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

    timeout: seconds for all of them together. Raises Stalled, naming those not ready, when it has passed.
    """
    refs = list(calls.values())
    ready, _ = ray.wait(refs, num_returns=len(refs), timeout=timeout) if refs else ([], [])
    if len(ready) < len(refs):
        raise Stalled(_message([name for name, ref in calls.items() if ref not in ready], timeout))
    return ray.get(refs)


def _message(names: Sequence[str] | Any, timeout: float) -> str:
    listed = "\n".join(f"  {name}" for name in names)
    return (
        f"nothing came back for {timeout:g} s; pending:\n{listed}\n"
        "look at the actor's log under /tmp/ray/session_latest/logs, or raise cluster.call_timeout"
    )
