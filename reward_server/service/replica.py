"""Where pictures are decoded and judged: one process of one verifier.

Both happen in threads, so that the event loop stays free to say how the replica is; while one batch is judged the next one is
decoded. No more than these two are ever held decoded; how many pixels a batch has is decided by who calls (batching.py).
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
from reward_server.service.judges import Description, EncodedItem, Verdict
from reward_server.verifiers import VERIFIERS
from unigrpo.pictures import decode_picture
from unigrpo.types import ScoreFailure

BATCHES = 2
"""Batches held decoded: one that is judged, one that is next."""
BROKEN_CALLS = 3
"""Calls in a row in which the verifier raised for all items, after which it counts as broken for good."""


class JudgeReplica:
    """A RewardServer that takes encoded pictures; a reward_server.service.judges.Judge."""

    def __init__(self, config: JudgeConfig, limits: Limits) -> None:
        """Loads the verifier. It remembers nothing: the ledger in front of all replicas does."""
        self._config = config
        self._server = RewardServer(config.model_copy(update={"cache_entries": 0}))
        self._hung_after = config.judge_timeout
        self._decode = partial(decode_picture, max_pixels=limits.image_pixels)
        self._decoders = ThreadPoolExecutor(config.placement.num_threads, thread_name_prefix="decode")
        self._scorer = ThreadPoolExecutor(1, thread_name_prefix="judge")
        self._room, self._decoding = asyncio.Semaphore(BATCHES), asyncio.Lock()
        self._judging_since: float | None = None
        self._broken_calls = 0

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
        """One verdict an item, in order, judged together; a picture that cannot be decoded is the failure of its own item."""
        async with self._room:
            return await self._judged(items)

    def check_health(self) -> None:
        """Raises RuntimeError when the verifier has been at one batch for longer than its judge_timeout, as it hangs, or has
        raised in BROKEN_CALLS calls in a row. Ray Serve starts the replica again.
        """
        since = self._judging_since
        if since is not None and time.monotonic() - since > self._hung_after:
            raise RuntimeError(f"the verifier has not answered for {self._hung_after:g} s")
        if self._broken_calls >= BROKEN_CALLS:
            raise RuntimeError(f"the verifier raised in {self._broken_calls} calls in a row; the log says what")

    async def _judged(self, items: Sequence[EncodedItem]) -> list[Verdict]:
        loop = asyncio.get_running_loop()
        async with self._decoding:  # Pillow's own copies of a picture are several times as large as it
            pictures = await asyncio.gather(*(loop.run_in_executor(self._decoders, self._read, item.image) for item in items))
        seen = [(item, picture) for item, picture in zip(items, pictures, strict=True) if isinstance(picture, Tensor)]
        scores = iter(await loop.run_in_executor(self._scorer, self._score, seen) if seen else ())
        return [next(scores) if isinstance(picture, Tensor) else picture for picture in pictures]

    def _read(self, image: bytes) -> Tensor | ScoreFailure:
        try:
            return self._decode(image)
        except ValueError as error:
            return ScoreFailure(reason=f"the picture cannot be decoded: {error}")

    def _score(self, seen: Sequence[tuple[EncodedItem, Tensor]]) -> Sequence[Verdict]:
        self._judging_since = time.monotonic()
        try:
            verdicts = self._server.score([item.prompt for item, _ in seen], [picture for _, picture in seen])
        finally:
            self._judging_since = None
        if not self._server.broken:
            self._broken_calls = 0
        elif any(self._is_sound(item) for item, _ in seen):
            self._broken_calls += 1
        return verdicts

    def _is_sound(self, item: EncodedItem) -> bool:
        """Whether the verifier should be able to judge it; what raises for other items says nothing of the verifier."""
        try:
            VERIFIERS[self._config.kind].validate_metadata(self._config, item.prompt.metadata)
        except ValueError:
            return False
        return True
