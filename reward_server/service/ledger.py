"""What one verifier has judged and is judging: the same content is judged once, however often and by whomever it is asked.

What is with the judge stays there when the request ends that asked for it: the verdict is remembered for whoever asks again.
Failures are not remembered, so that a retry is judged anew.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from reward_server.server import Memory
from reward_server.service.judges import EncodedItem, Unavailable, Verdict
from reward_server.service.refusal import Refused
from unigrpo.types import ScoreFailure

log = logging.getLogger(__name__)

MAX_KEYS = 65_536
"""Idempotency keys remembered."""
BROKEN = ScoreFailure(reason="the call in which this picture was judged broke off; ask again", outage=True)
LATE = ScoreFailure(reason="no verdict came in time; ask again", outage=True)

Ask = Callable[[Sequence[EncodedItem]], Awaitable[Sequence[Verdict]]]
"""One verdict an item, in order, within a time of its own."""


@dataclass(kw_only=True, slots=True)
class Counts:
    """Items by where their verdicts came from. Example: Counts(judged=30, cached=1, shared=1, failed=0)."""

    judged: int = 0
    """Given to the judge."""
    cached: int = 0
    """Remembered."""
    shared: int = 0
    """Equal to one that was with the judge, or stood in the same request."""
    failed: int = 0
    """Of those given to the judge, without a score."""


class Ledger:
    """One verifier's. Used from one event loop."""

    def __init__(self, entries: int) -> None:
        """Remembers the scores met last, at most `entries`."""
        self._remembered = Memory(entries)
        self._at_work: dict[str, asyncio.Future[Verdict]] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self.counts = Counts()

    async def verdicts(self, keys: Sequence[str], items: Sequence[EncodedItem], ask: Ask, deadline: float) -> list[Verdict]:
        """One verdict an item, in order; `keys` name what decides each. `ask` is given what nobody has judged or is judging.

        What has none by `deadline` (of the event loop's clock) is LATE. What another call has with the judge is waited for,
        and is BROKEN where that call breaks. Raises what `ask` raises.
        """
        found: dict[str, Verdict] = {}
        own: dict[str, EncodedItem] = {}
        awaited: dict[str, asyncio.Future[Verdict]] = {}
        for key, item in zip(keys, items, strict=True):
            if score := self._remembered.get(key):
                found[key] = score
                self.counts.cached += 1
            elif at_work := self._at_work.get(key):
                awaited[key] = at_work
                self.counts.shared += 1
            elif key in own:
                self.counts.shared += 1
            else:
                own[key] = item
        asking = self._start(own, ask) if own else None
        awaited |= {key: self._at_work[key] for key in own}
        if awaited:
            left = deadline - asyncio.get_running_loop().time()
            await asyncio.wait(set(awaited.values()), timeout=max(0.0, left))
        if asking and asking.done():
            asking.result()
        found |= {key: verdict.result() if verdict.done() else LATE for key, verdict in awaited.items()}
        return [found[key] for key in keys]

    def _start(self, own: dict[str, EncodedItem], ask: Ask) -> "asyncio.Task[None]":
        loop = asyncio.get_running_loop()
        self._at_work |= {key: loop.create_future() for key in own}
        asking = loop.create_task(self._judged(own, ask))
        self._asking.add(asking)
        asking.add_done_callback(self._asked)
        return asking

    def _asked(self, asking: "asyncio.Task[None]") -> None:
        self._asking.discard(asking)
        fault = None if asking.cancelled() else asking.exception()
        if fault is not None and not isinstance(fault, Unavailable):
            log.error("a verifier was asked in vain", exc_info=fault)  # whoever asked may be gone

    async def _judged(self, own: dict[str, EncodedItem], ask: Ask) -> None:
        self.counts.judged += len(own)
        answers: dict[str, Verdict] = dict.fromkeys(own, BROKEN)
        try:
            answers = dict(zip(own, await ask(list(own.values())), strict=True))
        finally:
            self._remembered.put(answers)
            for key, answer in answers.items():
                self._at_work.pop(key).set_result(answer)
                self.counts.failed += isinstance(answer, ScoreFailure)


class IdempotencyKeys:
    """What each Idempotency-Key was first sent with; the oldest are forgotten."""

    def __init__(self) -> None:
        self._contents: OrderedDict[str, str] = OrderedDict()

    def claim(self, key: str, content: str) -> None:
        """Raises Refused 422 when `key` came before with other content (both are hashes)."""
        if self._contents.setdefault(key, content) != content:
            raise Refused(422, "this Idempotency-Key came before with other content; give a request a key of its own")
        self._contents.move_to_end(key)
        if len(self._contents) > MAX_KEYS:
            self._contents.popitem(last=False)
