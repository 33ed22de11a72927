"""Calls to judges over the network: many at once, in order, each answered or failed before a deadline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from configs.remote import Remote
from unigrpo.types import ScoreFailure

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Generic[T]):
    """One question. Example: Call(path="/chat/completions", body=b"{...}", content_type="application/json", read=..., ...)."""

    path: str
    """Appended to the endpoint's base URL."""
    body: bytes = field(repr=False)
    """What is posted."""
    content_type: str
    """Of the body."""
    read: Callable[[bytes], T]
    """Parses an answer of status 200; raises ValueError for a wrong one."""
    idempotency_key: str
    """Sent as the header Idempotency-Key, the same for every attempt and hedge of this call."""


class Caller:
    """Asks the configured endpoints."""

    def __init__(self, remote: Remote) -> None:
        """Raises ValueError for an endpoint that is not allowed, and for a token or ca_file that cannot be used."""
        self._remote = remote
        self.num_retries = 0
        self.num_hedges = 0

    def ask(self, calls: Sequence[Call[T]]) -> list[T | ScoreFailure]:
        """One answer a call, in order; blocks at most `remote.batch_timeout` seconds. May be called from several threads."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends what is in flight, the connections and the thread."""
