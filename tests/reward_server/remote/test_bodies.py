"""Bodies are made when a call has its slot, beside the event loop, once, and go when the call is done."""

import asyncio
import threading
import time
from typing import Any

import pytest
from aiohttp import web

from reward_server.remote.calls import Call
from tests.reward_server.remote.fakes import FakeNet, Seen, call, caller, echo, fake_judge, hang, number, text
from unigrpo.types import ScoreFailure

CALLS = 24


class CountedBytes(bytes):
    """Bytes that count those of their kind that are alive."""

    lock = threading.Lock()
    alive = made = most = 0

    def __init__(self, content: bytes) -> None:
        with CountedBytes.lock:
            CountedBytes.made += 1
            CountedBytes.alive += 1
            CountedBytes.most = max(CountedBytes.most, CountedBytes.alive)

    def __del__(self) -> None:
        with CountedBytes.lock:
            CountedBytes.alive -= 1


@pytest.fixture(autouse=True)
def _nothing_counted_yet() -> None:
    CountedBytes.alive = CountedBytes.made = CountedBytes.most = 0


def counted(content: int) -> Call[int]:
    return made(lambda: (CountedBytes(str(content).encode()), "text/plain"))


def made(body: Any) -> Call[int]:
    return Call(path="/judge", body=body, read=number, idempotency_key="key")


def test_only_calls_under_way_hold_a_body(net: FakeNet) -> None:
    async def slow(seen: Seen) -> web.Response:
        await asyncio.sleep(0.01)
        return text(seen.body)

    with fake_judge(net, slow) as judge, caller(judge.url, concurrency=3) as asks:
        assert asks.ask([counted(index) for index in range(CALLS)]) == list(range(CALLS))
        assert (CountedBytes.made, CountedBytes.alive) == (CALLS, 0)
        assert CountedBytes.most <= 2 * 3  # a slot is handed on a moment before the one who had it is gone


def test_retries_and_hedges_post_the_same_body(net: FakeNet) -> None:
    async def third_time_lucky(seen: Seen) -> web.Response:
        return await hang(seen) if seen.number == 1 else text("7") if seen.number else text("busy", 503)

    with fake_judge(net, third_time_lucky) as judge, caller(judge.url, hedge_after=0.3) as asks:
        assert asks.ask([counted(5)]) == [7]
        assert (asks.num_retries, asks.num_hedges) == (1, 1)
    assert [seen.body for seen in judge.seen] == [b"5"] * 3
    assert CountedBytes.made == 1


def test_a_body_that_takes_long_holds_up_no_other_call(net: FakeNet) -> None:
    answered = threading.Event()

    async def tells(seen: Seen) -> web.Response:
        answered.set()
        return text(seen.body)

    def late() -> tuple[bytes, str]:
        return (b"1" if answered.wait(3.0) else b"0"), "text/plain"

    with fake_judge(net, tells) as judge, caller(judge.url) as asks:
        assert asks.ask([made(late), call("2")]) == [1, 2]


def test_making_a_body_takes_none_of_the_endpoints_time(net: FakeNet) -> None:
    def slow() -> tuple[bytes, str]:
        time.sleep(0.6)
        return b"7", "text/plain"

    with fake_judge(net, echo) as judge, caller(judge.url, call_timeout=0.5, hedge_after=0.4) as asks:
        assert asks.ask([made(slow)]) == [7]
        assert (asks.num_retries, asks.num_hedges) == (0, 0)


def test_a_call_without_a_body_fails_alone_and_finally(net: FakeNet) -> None:
    def impossible() -> tuple[bytes, str]:
        raise ValueError("no pixels")

    with fake_judge(net, echo) as judge, caller(judge.url, breaker_failures=1) as asks:
        failure, answer = asks.ask([made(impossible), call()])
        assert failure == ScoreFailure(reason="it cannot be asked: no pixels")
        assert answer == 7
        assert asks.ask([call()]) == [7]
    assert len(judge.seen) == 2


def test_a_mistake_in_making_a_body_is_raised(net: FakeNet) -> None:
    def broken() -> tuple[bytes, str]:
        raise KeyError("picture")

    with fake_judge(net, echo) as judge, caller(judge.url) as asks:
        with pytest.raises(KeyError, match="picture"):
            asks.ask([made(broken), call()])
        assert asks.ask([call()]) == [7]
