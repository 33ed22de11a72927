"""Which requests are let in: as many as may wait, and their bodies only as far as there is room for them.

A body's size is known before any of it is read, and its room is taken at once and whole, so that no two requests wait for each
other half read. Who waits is not read from: the sender waits too.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from reward_server.service.refusal import Refused


class Admission:
    """Room for requests and for the bytes of their bodies."""

    def __init__(self, num_requests: int, num_bytes: int) -> None:
        self._free_requests, self._free_bytes = num_requests, num_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def admitted(self, num_bytes: int, deadline: float) -> AsyncIterator[None]:
        """Hold room for one request with a body of `num_bytes`, first come, first served.

        Raises Refused 503 when as many requests are inside as may be, or there is no room by `deadline` (of the event loop's
        clock).
        """
        if not self._free_requests:
            raise Refused(503, "too many requests are waiting; come back later")
        self._free_requests -= 1
        try:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._take(num_bytes)
            except TimeoutError:
                raise Refused(503, "there was no room for the body in time; come back later") from None
            try:
                yield
            finally:
                self._free_bytes += num_bytes
                self._let_in()
        finally:
            self._free_requests += 1

    async def _take(self, num_bytes: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((num_bytes, turn))
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free_bytes += num_bytes
            self._let_in()
            raise

    def _let_in(self) -> None:
        while self._waiting:
            num_bytes, turn = self._waiting[0]
            if not turn.cancelled():
                if num_bytes > self._free_bytes:
                    return
                self._free_bytes -= num_bytes
                turn.set_result(None)
            self._waiting.popleft()
