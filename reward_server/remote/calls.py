"""Calls to judges over the network: many at once, in order, each answered or failed before a deadline.

An event loop in a thread of its own does the work, so that verifiers stay plain blocking code, and several of their threads
share endpoints, breakers and slots.
"""

import asyncio
import ssl
import threading
import time
import weakref
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from configs.remote import Remote
from reward_server.remote.addresses import base_url
from reward_server.remote.bearer import Bearer
from reward_server.remote.breaker import Breaker
from reward_server.remote.dispatch import Call, Dispatcher, end
from reward_server.remote.endpoints import Endpoint, Pool
from reward_server.remote.transport import Transport, trust
from unigrpo.types import ScoreFailure

__all__ = ["Call", "Caller"]

T = TypeVar("T")

_GRACE = 10.0
"""Seconds beyond every deadline after which the event loop itself counts as stuck."""


class Caller:
    """Asks the configured endpoints. Its methods may be called from several threads at once."""

    def __init__(self, remote: Remote) -> None:
        """Raises ValueError for no endpoint, one that is not allowed, and a token or ca_file that cannot be used."""
        if not remote.endpoints:
            raise ValueError("remote.endpoints is empty; give at least one base URL")
        self._batch_timeout = remote.batch_timeout
        self._batches: dict[asyncio.Task[Any], list[asyncio.Task[Any]]] = {}
        self._closed = False
        self._lock = threading.Lock()
        endpoints = [
            Endpoint(base_url(endpoint, remote), Breaker(failures=remote.breaker_failures, cooldown=remote.breaker_cooldown))
            for endpoint in remote.endpoints
        ]
        bearer, trusted = Bearer(remote), trust(remote)
        self._loop = asyncio.SelectorEventLoop()  # its clock is time.monotonic, whatever loops others have installed
        thread = threading.Thread(target=_serve, args=(self._loop,), name="remote-calls", daemon=True)
        thread.start()
        self._transport = self._run(_opened(remote, trusted, bearer)).result(_GRACE)
        self._finish = weakref.finalize(self, _finish, self._loop, thread, self._transport)
        pool = Pool(endpoints, concurrency=remote.concurrency)
        self._dispatcher = Dispatcher(remote, pool, self._transport, bearer)

    @property
    def num_retries(self) -> int:
        """Attempts beyond the first of their call, so far."""
        return self._dispatcher.num_sent["retry"]

    @property
    def num_hedges(self) -> int:
        """Attempts sent beside one that took long, so far."""
        return self._dispatcher.num_sent["hedge"]

    def ask(self, calls: Sequence[Call[T]]) -> list[T | ScoreFailure]:
        """One answer a call, in order; blocks at most `remote.batch_timeout` seconds.

        What goes wrong out there is the ScoreFailure of its call alone; what a `body` or `read` raises beyond ValueError is
        raised here.
        """
        deadline = time.monotonic() + self._batch_timeout
        with self._lock:
            if self._closed:
                raise RuntimeError("this caller is closed")
            batch = self._run(self._answers(calls, deadline))
        try:
            return batch.result(self._batch_timeout + _GRACE)
        finally:
            batch.cancel()

    def close(self) -> None:
        """Ends what is in flight (its answers are failures), the connections and the thread.

        A caller that nobody refers to any more, and every one when Python exits, ends its connections and thread by itself.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            ended = self._run(self._end())
        ended.result(_GRACE)
        self._finish()

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _answers(self, calls: Sequence[Call[T]], deadline: float) -> list[T | ScoreFailure]:
        batch = asyncio.current_task()
        assert batch is not None
        tasks = []
        for call in calls:
            answer = self._dispatcher.answer(call, deadline)
            tasks.append(self._loop.create_task(answer))
        self._batches[batch] = tasks
        try:
            if not tasks:
                return []
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                if not task.cancelled() and (mistake := task.exception()):
                    raise mistake
            closed = ScoreFailure(reason="the caller was closed before an answer came", outage=True)
            return [closed if task.cancelled() else task.result() for task in tasks]
        finally:
            await end(tasks)
            del self._batches[batch]

    async def _end(self) -> None:
        batches = dict(self._batches)
        await end([task for tasks in batches.values() for task in tasks])
        await asyncio.gather(*batches, return_exceptions=True)


async def _opened(remote: Remote, trusted: ssl.SSLContext, bearer: Bearer) -> Transport:
    """A transport of the running loop."""
    return Transport(remote, trusted=trusted, bearer=bearer)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _finish(loop: asyncio.AbstractEventLoop, thread: threading.Thread, transport: Transport) -> None:
    asyncio.run_coroutine_threadsafe(_stop(loop, transport), loop)
    if thread is not threading.current_thread():
        thread.join(_GRACE)


async def _stop(loop: asyncio.AbstractEventLoop, transport: Transport) -> None:
    await transport.close()
    loop.stop()
