"""Fake judges: real servers on 127.0.0.1, in one thread of their own."""

import asyncio
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web

from configs.remote import Remote
from reward_server.remote.calls import Call, Caller

T = TypeVar("T")
Handler = Callable[["Seen"], Awaitable[web.StreamResponse]]
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


class FakeNet:
    """The thread and its event loop; servers live until it closes."""

    def __init__(self) -> None:
        self.loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def close(self) -> None:
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    async def _cancel_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@dataclass
class Seen:
    """A request as it came."""

    number: int
    """0 for the first one of its server."""
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class FakeJudge:
    """An HTTP server that answers what its handler says."""

    handler: Handler
    seen: list[Seen] = field(default_factory=list)
    dropped: int = 0
    """Requests whose caller went away before they were answered."""
    at_once: int = 0
    most_at_once: int = 0
    port: int = 0
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        seen = Seen(len(self.seen), str(request.rel_url), dict(request.headers), await request.read())
        self.seen.append(seen)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self.handler(seen)
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        finally:
            self.at_once -= 1


@contextmanager
def fake_judge(
    net: FakeNet, handler: Handler, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
) -> Iterator[FakeJudge]:
    judge = FakeJudge(handler, scheme="https" if tls else "http")

    async def start() -> web.ServerRunner:
        runner = web.ServerRunner(web.Server(judge.answer, handler_cancellation=True), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, host, port, ssl_context=tls)
        await site.start()
        judge.port = runner.addresses[0][1]
        return runner

    runner = net.run(start())
    try:
        yield judge
    finally:
        net.run(runner.cleanup())


@contextmanager
def fake_socket(net: FakeNet, script: Script) -> Iterator[str]:
    """The URL of a TCP server that does with each connection what the script says, and closes it then."""
    serving: set[Any] = set()  # a task that nobody else holds may be collected before it ends

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        serving.add(task)
        try:
            await script(reader, writer)
        except ConnectionError:
            pass
        finally:
            serving.discard(task)
            writer.close()

    async def end(server: asyncio.Server) -> None:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def start() -> asyncio.Server:
        return await asyncio.start_server(serve, "127.0.0.1", 0)

    server = net.run(start())
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        net.run(end(server))


def remote(*endpoints: str, **settings: Any) -> Remote:
    """Rules for tests: loopback allowed, everything fast."""
    quick = {"call_timeout": 1.0, "batch_timeout": 5.0, "backoff": 0.01, "max_backoff": 0.05, "breaker_failures": 100}
    return Remote(**{"endpoints": endpoints, "private_hosts": ("127.0.0.1",), **quick, **settings})


@contextmanager
def caller(*endpoints: str, **settings: Any) -> Iterator[Caller]:
    made = Caller(remote(*endpoints, **settings))
    try:
        yield made
    finally:
        made.close()


def number(content: bytes) -> int:
    """A strict little `read`."""
    if not content.isdigit():
        raise ValueError("no whole number")
    return int(content)


def call(body: str = "7", *, path: str = "/judge", key: str = "key", read: Callable[[bytes], int] = number) -> Call[int]:
    return Call(path=path, body=lambda: (body.encode(), "text/plain"), read=read, idempotency_key=key)


def text(content: str | bytes, status: int = 200, **headers: str) -> web.Response:
    body = content.encode() if isinstance(content, str) else content
    return web.Response(status=status, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


async def echo(seen: Seen) -> web.Response:
    return text(seen.body)


async def hang(seen: Seen) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


def until(holds: Callable[[], bool]) -> None:
    """Waits for what happens in the judges' thread."""
    deadline = time.monotonic() + 2.0
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)
