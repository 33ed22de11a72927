"""Where pictures are decoded and judged: one process of one verifier.

Both happen in threads, so that the event loop stays free to say how the replica is; while one batch is judged the next one is
decoded. No more than these two are ever held decoded.
"""

import asyncio
import time
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
"""Batches held decoded: one that is judged, one that is next."""


class JudgeReplica:
    """A RewardServer that takes encoded pictures; a reward_server.service.judges.Judge."""

    def __init__(self, config: JudgeConfig, limits: Limits) -> None:
        """Loads the verifier. It remembers nothing: the ledger in front of all replicas does."""
        self._server = RewardServer(config.model_copy(update={"cache_entries": 0}))
        self._batch_size, self._hung_after = config.batch_size, config.judge_timeout
        self._decode = partial(decode_picture, max_pixels=limits.image_pixels)
        self._decoders = ThreadPoolExecutor(config.placement.num_threads, thread_name_prefix="decode")
        self._scorer = ThreadPoolExecutor(1, thread_name_prefix="judge")
        self._room = asyncio.Semaphore(BATCHES)
        self._judging_since: float | None = None

    async def is_ready(self) -> bool:
        """It is built."""
        return True

    async def describe(self) -> Description:
        """Version and bounds of the verifier."""
        return Description(version=self._server.version, bounds=self._server.bounds)

    async def judge_described(self, items: Sequence[EncodedItem]) -> tuple[Description, list[Verdict]]:
        """`judge`, and what the verifier is that judged: its files may have changed since the service learnt of it."""
        verdicts = await self.judge(items)
        return await self.describe(), verdicts

    async def judge(self, items: Sequence[EncodedItem]) -> list[Verdict]:
        """One verdict an item, in order."""
        verdicts: list[Verdict] = []
        for first in range(0, len(items), self._batch_size):
            async with self._room:
                verdicts += await self._judged(items[first : first + self._batch_size])
        return verdicts

    def check_health(self) -> None:
        """Raises RuntimeError when the verifier has been at one batch for longer than its judge_timeout: it hangs."""
        since = self._judging_since
        if since is not None and time.monotonic() - since > self._hung_after:
            raise RuntimeError(f"the verifier has not answered for {self._hung_after:g} s")

    async def _judged(self, items: Sequence[EncodedItem]) -> list[Verdict]:
        loop = asyncio.get_running_loop()
        pictures = await asyncio.gather(*(loop.run_in_executor(self._decoders, self._read, item.image) for item in items))
        seen = [(item, picture) for item, picture in zip(items, pictures, strict=True) if isinstance(picture, Tensor)]
        scores = iter(await loop.run_in_executor(self._scorer, self._score, seen))
        return [picture if isinstance(picture, Unreadable) else next(scores) for picture in pictures]

    def _read(self, image: bytes) -> Tensor | Unreadable:
        try:
            return self._decode(image)
        except ValueError as error:
            return Unreadable(reason=str(error))

    def _score(self, seen: Sequence[tuple[EncodedItem, Tensor]]) -> Sequence[Verdict]:
        self._judging_since = time.monotonic()
        try:
            return self._server.score([item.prompt for item, _ in seen], [picture for _, picture in seen])
        finally:
            self._judging_since = None
