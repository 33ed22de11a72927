"""Where pictures are decoded and judged: one process of one verifier, taking work from many requests at once.

Whatever waits is judged together, up to the verifier's batch size, across requests; nothing waits for a batch to fill. While
one batch is judged the next one is decoded. Both happen in threads: the event loop stays free to answer.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from torch import Tensor

from configs.reward_service import Limits
from configs.verifiers import Judge as JudgeConfig
from reward_server.server import RewardServer
from reward_server.service.judges import Description, EncodedItem, Unreadable, Verdict
from unigrpo.pictures import decode_picture

BATCHES = 2
"""Batches at once: one that is judged, one that is decoded."""

Asked = tuple[EncodedItem, "asyncio.Future[Verdict]"]
"""An item, and where its verdict is waited for."""


class JudgeReplica:
    """A RewardServer that takes encoded pictures; one of the implementations of service.judges.Judge."""

    def __init__(self, config: JudgeConfig, limits: Limits) -> None:
        """Loads the verifier. It remembers nothing: the ledger in front of all replicas does."""
        self._server = RewardServer(config.model_copy(update={"cache_entries": 0}))
        self._batch_size, self._hung_after = config.batch_size, config.judge_timeout
        self._decode = partial(decode_picture, max_pixels=limits.image_pixels)
        self._decoders = ThreadPoolExecutor(config.placement.num_threads, thread_name_prefix="decode")
        self._scorer = ThreadPoolExecutor(1, thread_name_prefix="judge")
        self._waiting: deque[Asked] = deque()
        self._batches: set[asyncio.Task[None]] = set()
        self._judging_since: float | None = None

    async def describe(self) -> Description:
        """Version and bounds of the verifier."""
        return Description(version=self._server.version, bounds=self._server.bounds)

    async def judge(self, items: Sequence[EncodedItem]) -> list[Verdict]:
        """One verdict an item, in order."""
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in items]
        self._waiting.extend(zip(items, futures, strict=True))
        while len(self._batches) < BATCHES and len(self._batches) * self._batch_size < len(self._waiting):
            task = loop.create_task(self._work())
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)
        return list(await asyncio.gather(*futures))

    def check_health(self) -> None:
        """Raises RuntimeError when the verifier has been at one batch for longer than its judge_timeout: it hangs."""
        since = self._judging_since
        if since is not None and time.monotonic() - since > self._hung_after:
            raise RuntimeError(f"the verifier has not answered for {self._hung_after:g} s")

    async def _work(self) -> None:
        while batch := self._next_batch():
            try:
                verdicts = await self._judged([item for item, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.cancelled():
                        future.set_exception(error)
                continue
            for (_, future), verdict in zip(batch, verdicts, strict=True):
                if not future.cancelled():
                    future.set_result(verdict)

    def _next_batch(self) -> list[Asked]:
        batch: list[Asked] = []
        while self._waiting and len(batch) < self._batch_size:
            item, future = self._waiting.popleft()
            if not future.cancelled():
                batch.append((item, future))
        return batch

    async def _judged(self, items: Sequence[EncodedItem]) -> list[Verdict]:
        loop = asyncio.get_running_loop()
        pictures = await asyncio.gather(*(loop.run_in_executor(self._decoders, self._read, item.image) for item in items))
        seen = [(place, picture) for place, picture in enumerate(pictures) if not isinstance(picture, Unreadable)]
        scores = await loop.run_in_executor(
            self._scorer, self._score, [items[place] for place, _ in seen], [picture for _, picture in seen]
        )
        found: dict[int, Verdict] = dict(zip((place for place, _ in seen), scores, strict=True))
        found |= {place: picture for place, picture in enumerate(pictures) if isinstance(picture, Unreadable)}
        return [found[place] for place in range(len(items))]

    def _read(self, image: bytes) -> Tensor | Unreadable:
        try:
            return self._decode(image)
        except ValueError as error:
            return Unreadable(reason=str(error))

    def _score(self, items: Sequence[EncodedItem], pictures: Sequence[Tensor]) -> Sequence[Verdict]:
        self._judging_since = time.monotonic()
        try:
            return self._server.score([item.prompt for item in items], pictures)
        finally:
            self._judging_since = None
