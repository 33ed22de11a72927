"""One queue a verifier: whatever waits is judged together, across requests, by whoever is free.

Work is pulled: as many calls are out as replicas can be at, each takes what has waited longest, up to a batch, and nothing
waits for a batch to fill.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from reward_server.service.judges import Description, EncodedItem, Judge, Verdict
from unigrpo.types import ScoreFailure


class Batched:
    """A Judge that asks another one in batches."""

    def __init__(self, judge: Judge, *, batch_size: int, max_calls: int, timeout: float) -> None:
        """batch_size: items of a call. max_calls: calls at once. timeout: seconds for a call, after which it is an outage."""
        self._judge, self._batch_size, self._max_calls, self._timeout = judge, batch_size, max_calls, timeout
        self._waiting: deque[tuple[EncodedItem, asyncio.Future[Verdict]]] = deque()
        self._calls: set[asyncio.Task[None]] = set()

    async def is_ready(self) -> bool:
        """As the judge says."""
        return await self._judge.is_ready()

    async def describe(self) -> Description:
        """As the judge says."""
        return await self._judge.describe()

    async def judge(self, items: Sequence[EncodedItem]) -> list[Verdict]:
        """One verdict an item, in order. Raises what the judge raises. What is cancelled while it waits is not judged."""
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in items]
        self._waiting.extend(zip(items, futures, strict=True))
        self._call()
        return list(await asyncio.gather(*futures))

    def _call(self) -> None:
        while len(self._calls) < self._max_calls and (batch := self._next_batch()):
            call = asyncio.get_running_loop().create_task(self._answer(batch))
            self._calls.add(call)
            call.add_done_callback(self._called)

    def _called(self, call: "asyncio.Task[None]") -> None:
        self._calls.discard(call)
        if not call.cancelled():
            self._call()

    def _next_batch(self) -> list[tuple[EncodedItem, "asyncio.Future[Verdict]"]]:
        batch: list[tuple[EncodedItem, asyncio.Future[Verdict]]] = []
        while self._waiting and len(batch) < self._batch_size:
            item, future = self._waiting.popleft()
            if not future.cancelled():
                batch.append((item, future))
        return batch

    async def _answer(self, batch: Sequence[tuple[EncodedItem, "asyncio.Future[Verdict]"]]) -> None:
        """Settle every future of a batch, whatever becomes of the call."""
        verdicts: Sequence[Verdict] = []
        fault: BaseException | None = None
        try:
            async with asyncio.timeout(self._timeout):
                verdicts = await self._judge.judge([item for item, _ in batch])
            if len(verdicts) != len(batch):
                wrong = f"the judge answered {len(verdicts)} verdicts for {len(batch)} pictures"
                verdicts = [ScoreFailure(reason=wrong)] * len(batch)
        except TimeoutError:
            verdicts = [ScoreFailure(reason=f"no verdict came in {self._timeout:g} s", outage=True)] * len(batch)
        except Exception as error:
            fault = error
        for place, (_, future) in enumerate(batch):
            if future.cancelled():
                continue
            if fault is not None:
                future.set_exception(fault)
            else:
                future.set_result(verdicts[place])
