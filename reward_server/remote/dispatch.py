"""One call from the first attempt to the verdict: attempts, hedges and retries, each with its deadline.

A failed attempt is either an outage (the endpoint failed), after which the call is asked again, elsewhere if it can be, or
final (an answer came and was wrong, or the request itself is), after which it is not.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from yarl import URL

from configs.remote import Remote
from reward_server.remote.bearer import Bearer
from reward_server.remote.endpoints import Endpoint, NoneLeft, Pool, Slot
from reward_server.remote.quoting import quoted
from reward_server.remote.retry import backoff
from reward_server.remote.transport import AttemptError, Transport
from unigrpo.types import ScoreFailure

log = logging.getLogger(__name__)

T = TypeVar("T")
Kind = Literal["first", "retry", "hedge"]

_QUOTED = 500
"""Characters of an answer or an error that a reason quotes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Generic[T]):
    """One question. Example: Call(path="/judge", body=lambda: (b"7", "text/plain"), read=int, idempotency_key="7")."""

    path: str
    """Appended to the endpoint's base URL."""
    body: Callable[[], tuple[bytes, str]]
    """Makes what is posted, and its Content-Type; raises ValueError where that cannot be. Runs in a thread of its own, once,
    when the call has its first slot, so that only calls under way hold a body."""
    read: Callable[[bytes], T]
    """Parses an answer of status 200; raises ValueError for a wrong one. Runs in the thread that all calls share: be quick."""
    idempotency_key: str
    """Sent as the header Idempotency-Key, the same for every attempt and hedge of this call."""


@dataclass(frozen=True, slots=True)
class _Good(Generic[T]):
    value: T


@dataclass(frozen=True, slots=True)
class _Bad:
    reason: str
    outage: bool
    endpoint: Endpoint | None = None
    """Who failed; None when nobody was left to ask."""


class _Question(Generic[T]):
    """A call that is being answered: what it posts, the same at every attempt, and where that was in vain."""

    def __init__(self, call: Call[T]) -> None:
        self.call = call
        self.failed_at: list[Endpoint] = []
        """Where attempts failed, the latest last."""
        self._posted: tuple[bytes, str] | None = None

    async def posted(self) -> tuple[bytes, str]:
        """Body and Content-Type. Retries and hedges begin when the first attempt has them."""
        if self._posted is None:
            self._posted = await asyncio.to_thread(self.call.body)
        return self._posted


class Dispatcher:
    """Answers calls, in one event loop."""

    def __init__(self, remote: Remote, pool: Pool, transport: Transport, bearer: Bearer) -> None:
        """The bearer's tokens are kept out of every reason."""
        self._remote = remote
        self._pool = pool
        self._transport = transport
        self._bearer = bearer
        self.num_sent: Counter[Kind] = Counter()
        """Attempts by kind."""

    async def answer(self, call: Call[T], deadline: float) -> T | ScoreFailure:
        """What `call.read` makes of the first good answer, or a failure; at the latest at `deadline` on the loop's clock."""
        question = _Question(call)
        last: _Bad | None = None
        try:
            async with asyncio.timeout_at(deadline):
                for failures in range(self._remote.max_attempts):
                    if failures:
                        await asyncio.sleep(self._backoff(failures))
                    outcome = await self._hedged(question, deadline)
                    if isinstance(outcome, _Good):
                        return outcome.value
                    if not outcome.outage:
                        return ScoreFailure(reason=outcome.reason)
                    if outcome.endpoint is None:
                        return ScoreFailure(reason=_after(outcome.reason, last), outage=True)
                    last = outcome
        except TimeoutError:
            late = f"no answer within batch_timeout={self._remote.batch_timeout} s"
            return ScoreFailure(reason=_after(late, last), outage=True)
        return ScoreFailure(reason=_after(f"all {self._remote.max_attempts} attempts failed", last), outage=True)

    def _backoff(self, failures: int) -> float:
        return backoff(failures, first=self._remote.backoff, longest=self._remote.max_backoff, draw=random.random())

    async def _hedged(self, question: _Question[T], deadline: float) -> _Good[T] | _Bad:
        """One attempt, and from `hedge_after` on a second one beside it.

        The first good answer counts and ends the other attempt; of two bad outcomes a final one counts before an outage.
        """
        loop = asyncio.get_running_loop()
        sent: asyncio.Future[Endpoint] = loop.create_future()
        hedged: asyncio.Future[Endpoint] = loop.create_future()
        kind: Kind = "retry" if question.failed_at else "first"
        first = loop.create_task(self._attempt(question, deadline, kind=kind, avoid=question.failed_at, sent=sent))
        second: asyncio.Task[_Good[T] | _Bad] | None = None
        try:
            begun: set[asyncio.Future[Any]] = {first, sent}
            await asyncio.wait(begun, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({first}, timeout=self._remote.hedge_after or None)
            if first.done():
                return first.result()
            avoid = [*question.failed_at, sent.result()]
            second = loop.create_task(self._attempt(question, deadline, kind="hedge", avoid=avoid, sent=hedged))
            await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
            earlier, later = (first, second) if first.done() else (second, first)
            outcome = earlier.result()
            if isinstance(outcome, _Good) or (earlier is first and not hedged.done()):
                return outcome
            other = await later
            return other if isinstance(other, _Good) or outcome.outage else outcome
        finally:
            await end([task for task in (first, second) if task])

    async def _attempt(
        self, question: _Question[T], deadline: float, *, kind: Kind, avoid: Sequence[Endpoint], sent: asyncio.Future[Endpoint]
    ) -> _Good[T] | _Bad:
        """Waits for a slot, makes the body, says in `sent` whose slot it is, and asks.

        An outage when no endpoint is up within `max_backoff`; final when there is no body.
        """
        until = min(deadline, asyncio.get_running_loop().time() + self._remote.max_backoff)
        try:
            async with self._pool.slot(avoid=avoid, until=until) as slot:
                try:
                    body, content_type = await question.posted()
                except ValueError as error:
                    return _Bad(f"it cannot be asked: {self._quoted(str(error))}", outage=False)
                sent.set_result(slot.endpoint)
                self.num_sent[kind] += 1
                outcome = await self._ask(question.call, body, content_type, slot)
        except NoneLeft as error:
            return _Bad(str(error), outage=True)
        if isinstance(outcome, _Bad):
            log.warning("%s", outcome.reason)
            question.failed_at.append(slot.endpoint)
        return outcome

    async def _ask(self, call: Call[T], body: bytes, content_type: str, slot: Slot) -> _Good[T] | _Bad:
        """The attempt itself. What the endpoint did is noted on its slot."""
        assert call.path.startswith("/"), call.path
        headers = {"Content-Type": content_type, "Idempotency-Key": call.idempotency_key}
        url = URL(f"{slot.endpoint.url}{call.path}", encoded=True)
        try:
            async with asyncio.timeout(self._remote.call_timeout):
                content = await self._transport.post(url, body, headers)
        except TimeoutError:
            slot.failure = f"no answer within call_timeout={self._remote.call_timeout} s"
            return _bad(slot.endpoint, slot.failure, outage=True)
        except AttemptError as error:
            reason = self._quoted(str(error))
            if error.outage:
                slot.failure, slot.pause = reason, error.pause
            slot.answered = not error.outage
            return _bad(slot.endpoint, reason, outage=error.outage)
        slot.answered = True
        if any(token.encode() in content for token in self._bearer.tokens):
            return _bad(slot.endpoint, "wrong answer: it repeats the bearer token, and is not read", outage=False)
        try:
            return _Good(call.read(content))
        except (ValueError, RecursionError) as error:
            said = self._quoted(content.decode("utf-8", errors="replace"))
            return _bad(slot.endpoint, f"wrong answer: {self._quoted(str(error))}; it said: {said}", outage=False)

    def _quoted(self, text: str) -> str:
        return quoted(text, limit=_QUOTED, secrets=self._bearer.tokens)


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancels those that still run, and waits until they have cleaned up."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _bad(endpoint: Endpoint, reason: str, *, outage: bool) -> _Bad:
    return _Bad(f"{endpoint.name}: {reason}", outage=outage, endpoint=endpoint)


def _after(reason: str, last: _Bad | None) -> str:
    return reason if last is None else f"{reason}; the last: {last.reason}"
