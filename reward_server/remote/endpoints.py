"""Who takes the next attempt: every endpoint has a number of slots and takes work when one is free, so that fast ones do more.

Lives in one event loop; nothing here is for several threads.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from yarl import URL

from reward_server.remote.breaker import Breaker
from reward_server.remote.quoting import quoted

log = logging.getLogger(__name__)

_QUOTED = 120
"""Characters of each endpoint's last failure in the reason that none is left."""
_LATE = 1e-3
"""Seconds after an endpoint is up again at which it is given work: a timer may run a hair early."""


class NoneLeft(Exception):
    """Every endpoint is out for longer than the attempt would wait."""


@dataclass(eq=False, slots=True)
class Endpoint:
    """One server."""

    url: URL
    breaker: Breaker
    in_flight: int = 0
    trouble: str = ""
    """Why it failed last."""

    @property
    def name(self) -> str:
        """Its host and port, for messages."""
        return self.url.authority


@dataclass(eq=False, slots=True)
class Slot:
    """The right to one attempt. Whoever holds it says how the attempt ended; silence is a cancelled one."""

    endpoint: Endpoint
    trial: bool
    answered: bool = False
    """Set when the endpoint answered, whatever it said."""
    failure: str | None = None
    """Set when it did not, to why."""
    pause: float = 0.0
    """Seconds that it asks to be left alone, set with `failure`."""


@dataclass(eq=False, slots=True)
class _Waiter:
    avoid: Sequence[Endpoint]
    until: float
    turn: asyncio.Future[Slot] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Pool:
    """The endpoints, and the attempts that wait for a slot, first come, first served."""

    def __init__(self, endpoints: Sequence[Endpoint], *, concurrency: int) -> None:
        self._endpoints = endpoints
        self._concurrency = concurrency
        self._waiting: dict[_Waiter, None] = {}

    @asynccontextmanager
    async def slot(self, *, avoid: Sequence[Endpoint], until: float) -> AsyncIterator[Slot]:
        """Waits for a slot of any endpoint; of `avoid` only while no other is up, and then of the one that stands there first.

        Raises NoneLeft when all are left alone beyond `until`, on the loop's clock. What bounds the waiting for a busy endpoint
        is the caller's deadline.
        """
        slot = await self._take(_Waiter(avoid, until))
        try:
            yield slot
        finally:
            self._give(slot)

    async def _take(self, waiter: _Waiter) -> Slot:
        self._waiting[waiter] = None
        self._serve()
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                self._give(waiter.turn.result())  # cancelled between being served and waking up
            raise
        finally:
            self._waiting.pop(waiter, None)

    def _give(self, slot: Slot) -> None:
        slot.endpoint.in_flight -= 1
        breaker = slot.endpoint.breaker
        if slot.answered:
            breaker.succeeded(trial=slot.trial)
        elif slot.failure is not None:
            self._note_failure(slot, slot.failure)
        else:
            breaker.abandoned(trial=slot.trial)
        self._serve()

    def _note_failure(self, slot: Slot, reason: str) -> None:
        slot.endpoint.trouble = quoted(reason, limit=_QUOTED)
        loop, breaker = asyncio.get_running_loop(), slot.endpoint.breaker
        before = breaker.opens_until
        breaker.failed(loop.time(), trial=slot.trial, pause=slot.pause)
        if breaker.opens_until > before:
            log.warning("%s is left alone for %.1f s", slot.endpoint.name, breaker.opens_until - loop.time())
            loop.call_at(breaker.opens_until + _LATE, self._serve)

    def _serve(self) -> None:
        """Hand free slots to those who wait, and the truth to those who wait in vain."""
        soonest = min(endpoint.breaker.opens_until for endpoint in self._endpoints)
        for waiter in [waiter for waiter in self._waiting if soonest > waiter.until]:
            del self._waiting[waiter]
            if not waiter.turn.done():
                waiter.turn.set_exception(NoneLeft(f"every endpoint is left alone: {self._states()}"))
        for waiter in list(self._waiting):
            if not self._free():
                return
            free = self._free(waiter.avoid)
            if free and not waiter.turn.done():
                del self._waiting[waiter]
                endpoint = min(free, key=lambda endpoint: endpoint.in_flight)
                endpoint.in_flight += 1
                waiter.turn.set_result(Slot(endpoint, trial=endpoint.breaker.begin()))

    def _free(self, avoid: Sequence[Endpoint] = ()) -> list[Endpoint]:
        """Of the endpoints that are up and least to be avoided, those that have a slot."""
        now = asyncio.get_running_loop().time()
        up = [endpoint for endpoint in self._endpoints if endpoint.breaker.admits(now)]
        rank = {endpoint: 1 + place for place, endpoint in enumerate(avoid)}
        least = min((rank.get(endpoint, 0) for endpoint in up), default=0)
        return [each for each in up if rank.get(each, 0) == least and each.in_flight < self._concurrency]

    def _states(self) -> str:
        now = asyncio.get_running_loop().time()
        return ", ".join(f"{each.name} for {each.breaker.opens_until - now:.1f} s ({each.trouble})" for each in self._endpoints)
