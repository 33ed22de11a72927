"""A body must come at a pace: room is kept for all of it, and who stalls keeps others out."""

import asyncio
from collections.abc import AsyncIterator

from reward_server.service.refusal import Refused

GRACE = 10.0
"""Seconds before the pace counts, and that nothing at all may come."""
LEAST_RATE = 64 << 10
"""Bytes a second, on the average since the beginning."""


async def at_a_pace(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same chunks. Raises Refused 408 when they come too slowly."""
    loop = asyncio.get_running_loop()
    started, received = loop.time(), 0
    while True:
        try:
            async with asyncio.timeout(GRACE):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Refused(408, f"nothing of the body came for {GRACE:g} s") from None
        received += len(chunk)
        if received < LEAST_RATE * (loop.time() - started - GRACE):
            raise Refused(408, f"the body comes more slowly than {LEAST_RATE} bytes a second")
        yield chunk
