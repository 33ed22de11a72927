"""One queue a verifier: whatever waits is judged together, across requests, by whoever is free.

Work is pulled: as many calls are out as replicas can be at, those that are free share evenly what waits, and nothing waits for
a batch to fill.
"""

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from reward_server.service.judges import Description, EncodedItem, Judge, Verdict
from unigrpo.types import ScoreFailure

CALL_PIXELS = 4096 * 4096
"""Pixels of all pictures of one call, since few bytes may hold many; a larger picture is judged alone."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    item: EncodedItem
    verdict: "asyncio.Future[Verdict]"


class Batched:
    """A Judge that asks another one in batches."""

    def __init__(self, judge: Judge, *, batch_size: int, max_calls: int, patience: float, timeout: float) -> None:
        """batch_size: items of a call, which are fewer where they have more than CALL_PIXELS pixels. max_calls: calls
        at once. patience: seconds until what no call has taken up is an outage. timeout: the same for a call.
        """
        self._judge, self._batch_size, self._max_calls = judge, batch_size, max_calls
        self._patience, self._timeout = patience, timeout
        self._waiting: deque[_Waiting] = deque()
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
        own = [_Waiting(item, loop.create_future()) for item in items]
        self._waiting.extend(own)
        self._call()
        giving_up = loop.call_later(self._patience, self._give_up, own)
        try:
            return list(await asyncio.gather(*(each.verdict for each in own)))
        finally:
            giving_up.cancel()

    def _give_up(self, own: Sequence[_Waiting]) -> None:
        """Keep nothing of what still waits: its pictures may be large."""
        late = ScoreFailure(reason=f"no judge was free in {self._patience:g} s", outage=True)
        given_up = set(own) & set(self._waiting)
        self._waiting = deque(each for each in self._waiting if each not in given_up)
        for each in given_up:
            if not each.verdict.done():
                each.verdict.set_result(late)

    def _call(self) -> None:
        while (free := self._max_calls - len(self._calls)) > 0:
            share = math.ceil(len(self._waiting) / free)
            if not (batch := self._next_batch(min(share, self._batch_size))):
                return
            call = asyncio.get_running_loop().create_task(self._answer(batch))
            self._calls.add(call)
            call.add_done_callback(self._called)

    def _called(self, call: "asyncio.Task[None]") -> None:
        self._calls.discard(call)
        if not call.cancelled():
            self._call()

    def _next_batch(self, most: int) -> list[_Waiting]:
        batch: list[_Waiting] = []
        pixels = 0
        while self._waiting and len(batch) < most:
            first = self._waiting[0]
            if not first.verdict.cancelled():
                pixels += first.item.pixels
                if batch and pixels > CALL_PIXELS:
                    break
                batch.append(first)
            self._waiting.popleft()
        return batch

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        """Settle every verdict of a batch, whatever becomes of the call."""
        verdicts: Sequence[Verdict] = []
        fault: BaseException | None = None
        try:
            async with asyncio.timeout(self._timeout):
                verdicts = await self._judge.judge([each.item for each in batch])
            if len(verdicts) != len(batch):
                wrong = f"the judge answered {len(verdicts)} verdicts for {len(batch)} pictures"
                verdicts = [ScoreFailure(reason=wrong)] * len(batch)
        except TimeoutError:
            verdicts = [ScoreFailure(reason=f"no verdict came in {self._timeout:g} s", outage=True)] * len(batch)
        except Exception as error:
            fault = error
        for place, each in enumerate(batch):
            if each.verdict.cancelled():
                continue
            if fault is not None:
                each.verdict.set_exception(fault)
            else:
                each.verdict.set_result(verdicts[place])
