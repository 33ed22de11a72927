"""HTTP/1.1 below the application: uvicorn, with a deadline for headers and a last word for bodies that are not read."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""From the first byte of a request, or a connection's start, to the end of its headers."""
HEADER_BYTES = 32 << 10
"""Of headers that have not ended; what has arrived with one read (256 kB at most) is taken."""
LINGER_SECONDS = 2.0
"""How long what a refused sender still sends is read and thrown away, so that it finds the answer and not a reset."""
IDLE_SECONDS = 75
"""Until a connection without a request is closed: longer than common clients keep one, so that they do not lose a race."""
SHUTDOWN_SECONDS = 30
"""Until requests at work are left behind when the service ends."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Impatient(H11Protocol):
    """Closes a connection whose headers do not end in time."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take bytes, and wait no more, or anew, for headers."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        super().connection_lost(exc)
        if self._deadline is not None:
            self._deadline.cancel()

    def _watch(self) -> None:
        waiting = self.conn.their_state is h11.IDLE
        if waiting and self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)
        elif not waiting and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class LastWord:
    """ASGI middleware: an answer to a request whose body was not read to its end closes the connection, but not before the
    sender had time to see it.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        names = {name for name, _ in scope.get("headers", ())}
        unread = bool(names & {b"content-length", b"transfer-encoding"})

        async def watched_receive() -> Message:
            nonlocal unread
            message = await receive()
            unread = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def watched_send(message: Message) -> None:
            if unread and message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            if not unread or message["type"] != "http.response.body" or message.get("more_body", False):
                await send(message)
                return
            await send({**message, "more_body": True})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    while unread:
                        await watched_receive()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, watched_receive, watched_send)


def server(app: Application, *, max_connections: int) -> uvicorn.Server:
    """A server of `app`, to be awaited with `serve(sockets=[...])`; it listens to no signal, `should_exit = True` ends it."""
    config = uvicorn.Config(
        app,
        http=Impatient,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
        limit_concurrency=max_connections,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return Quiet(config)


class Quiet(uvicorn.Server):
    """Leaves the process's signals to whoever runs it."""

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """None."""
        return contextlib.nullcontext()
