"""Balancing, hedging and breaking, over real servers."""

import asyncio
import time

import pytest
from aiohttp import web

from tests.reward_server.remote.fakes import FakeNet, Handler, Seen, call, caller, echo, fake_judge, hang, text, until
from unigrpo.types import ScoreFailure


def test_work_is_pulled(net: FakeNet) -> None:
    """The slow one keeps its only call until the fast one has done all others: dealing in turns would never end."""
    fast_did_the_rest = asyncio.Event()

    async def slow(seen: Seen) -> web.Response:
        await fast_did_the_rest.wait()
        return text(seen.body)

    async def fast(seen: Seen) -> web.Response:
        if seen.number == 18:
            fast_did_the_rest.set()
        return text(seen.body)

    with fake_judge(net, slow) as one, fake_judge(net, fast) as two:
        with caller(one.url, two.url, concurrency=1) as asks:
            assert asks.ask([call(str(index)) for index in range(20)]) == list(range(20))
        assert (len(one.seen), len(two.seen)) == (1, 19)


def test_share_of_the_work_follows_speed(net: FakeNet) -> None:
    def lasting(seconds: float) -> Handler:
        async def answer(seen: Seen) -> web.Response:
            await asyncio.sleep(seconds)
            return text(seen.body)

        return answer

    with fake_judge(net, lasting(0.12)) as slow, fake_judge(net, lasting(0.03)) as fast:
        with caller(slow.url, fast.url, concurrency=2) as asks:
            asks.ask([call(str(index)) for index in range(40)])
        assert len(slow.seen) + len(fast.seen) == 40
        assert 2 < len(fast.seen) / len(slow.seen) < 6  # 4 but for what a call costs beside the waiting


def test_a_retry_goes_to_another_endpoint(net: FakeNet) -> None:
    async def down(seen: Seen) -> web.Response:
        return text("down", 500)

    with fake_judge(net, down) as bad, fake_judge(net, echo) as good, caller(bad.url, good.url, max_attempts=2) as asks:
        assert asks.ask([call(str(index)) for index in range(12)]) == list(range(12))
        assert 0 < len(bad.seen) <= 12
        assert asks.num_retries == len(bad.seen)


@pytest.mark.parametrize("status", [404, 401, 302])
def test_an_endpoint_that_refuses_everything_at_once_does_not_drain_the_others(net: FakeNet, status: int) -> None:
    async def refuses(seen: Seen) -> web.Response:
        return text("never heard of it", status)

    async def works(seen: Seen) -> web.Response:
        await asyncio.sleep(0.3)
        return text(seen.body)

    settings = {"breaker_failures": 5, "breaker_cooldown": 10.0}
    with fake_judge(net, refuses) as bad, fake_judge(net, works) as good, caller(bad.url, good.url, **settings) as asks:
        assert asks.ask([call(str(index)) for index in range(24)]) == list(range(24))
        assert 5 <= len(bad.seen) <= 16 + 4  # its slots, filled once, and what the breaker still let through
        bad_before = len(bad.seen)
        assert asks.ask([call()]) == [7]
        assert len(bad.seen) == bad_before


def test_when_none_is_left_the_reason_says_why(net: FakeNet) -> None:
    async def refuses(seen: Seen) -> web.Response:
        return text("never heard of it", 404)

    settings = {"breaker_failures": 2, "breaker_cooldown": 30.0, "concurrency": 1}
    with fake_judge(net, refuses) as judge, caller(judge.url, **settings) as asks:
        failures = asks.ask([call() for _ in range(6)])
        assert len(judge.seen) == 2
    assert all(isinstance(failure, ScoreFailure) and failure.outage for failure in failures)
    assert all("HTTP 404: never heard of it" in failure.reason for failure in failures if isinstance(failure, ScoreFailure))


def test_a_call_finds_the_only_endpoint_that_works(net: FakeNet) -> None:
    async def refuses(seen: Seen) -> web.Response:
        return text("never heard of it", 404)

    with fake_judge(net, refuses) as one, fake_judge(net, refuses) as two, fake_judge(net, echo) as good:
        with caller(one.url, two.url, good.url, max_attempts=3) as asks:
            assert asks.ask([call()]) == [7]
        assert (len(one.seen), len(two.seen), len(good.seen)) == (1, 1, 1)


def test_hedging_beats_a_straggler_and_leaves_one_answer(net: FakeNet) -> None:
    with fake_judge(net, hang) as stuck, fake_judge(net, echo) as good, caller(stuck.url, good.url, hedge_after=0.05) as asks:
        start = time.monotonic()
        assert asks.ask([call(key="k")]) == [7]
        assert 0.05 <= time.monotonic() - start < 0.5
        assert (asks.num_hedges, asks.num_retries) == (1, 0)
        until(lambda: stuck.dropped == 1)
    assert [seen.headers["Idempotency-Key"] for seen in stuck.seen + good.seen] == ["k", "k"]


def test_a_hedge_goes_to_another_endpoint_though_that_is_as_busy(net: FakeNet) -> None:
    async def stuck_with_one(seen: Seen) -> web.Response:
        return await (hang if seen.body == b"1" else echo)(seen)

    async def slow_with_two(seen: Seen) -> web.Response:
        return await (hang if seen.body == b"2" else echo)(seen)

    with fake_judge(net, stuck_with_one) as one, fake_judge(net, slow_with_two) as two:
        with caller(one.url, two.url, hedge_after=0.05) as asks:
            assert asks.ask([call("1"), call("2")]) == [1, 2]
        assert [sorted(seen.body for seen in judge.seen) for judge in (one, two)] == [[b"1", b"2"], [b"1", b"2"]]


def test_a_sole_endpoint_is_hedged_with_itself(net: FakeNet) -> None:
    async def hangs_once(seen: Seen) -> web.Response:
        return await (echo if seen.number else hang)(seen)

    with fake_judge(net, hangs_once) as judge, caller(judge.url, hedge_after=0.05) as asks:
        assert asks.ask([call()]) == [7]
        assert asks.num_hedges == 1


def test_a_quick_answer_is_not_hedged(net: FakeNet) -> None:
    with fake_judge(net, echo) as judge, caller(judge.url, hedge_after=0.5) as asks:
        assert asks.ask([call("1"), call("2")]) == [1, 2]
        assert asks.num_hedges == 0


@pytest.mark.parametrize("bad", [text("down", 500), text("no", 400), text("wrong")])
def test_a_bad_hedge_does_not_spoil_the_first_attempt(net: FakeNet, bad: web.Response) -> None:
    async def slow(seen: Seen) -> web.Response:
        await asyncio.sleep(0.2)
        return text(seen.body)

    async def spoils(seen: Seen) -> web.Response:
        return bad

    with fake_judge(net, slow) as first, fake_judge(net, spoils) as second:
        with caller(first.url, second.url, hedge_after=0.02) as asks:
            assert asks.ask([call()]) == [7]
            assert (asks.num_hedges, asks.num_retries) == (1, 0)
        assert (len(first.seen), len(second.seen)) == (1, 1)


def test_when_both_fail_the_call_is_asked_again(net: FakeNet) -> None:
    async def late_failure(seen: Seen) -> web.Response:
        if seen.number < 2:
            await asyncio.sleep(0.1)
            return text("down", 500)
        return text(seen.body)

    with fake_judge(net, late_failure) as judge, caller(judge.url, hedge_after=0.03) as asks:
        assert asks.ask([call()]) == [7]
        assert (asks.num_hedges, asks.num_retries) == (1, 1)


def test_a_breaker_opens_tries_again_and_closes(net: FakeNet) -> None:
    healthy = False

    async def sometimes(seen: Seen) -> web.Response:
        return text(seen.body) if healthy else text("down", 500)

    settings = {"breaker_failures": 3, "breaker_cooldown": 0.3, "max_attempts": 1, "max_backoff": 0.1, "concurrency": 8}
    with fake_judge(net, sometimes) as judge, caller(judge.url, **settings) as asks:
        for _ in range(3):
            assert isinstance(asks.ask([call()])[0], ScoreFailure)
        [failure] = asks.ask([call()])
        assert isinstance(failure, ScoreFailure)
        assert failure.outage
        assert "left alone" in failure.reason
        assert len(judge.seen) == 3
        time.sleep(0.31)
        one_tried, *not_tried = asks.ask([call(), call(), call()])
        assert isinstance(one_tried, ScoreFailure)
        assert "HTTP 500" in one_tried.reason
        assert all(isinstance(answer, ScoreFailure) and "left alone" in answer.reason for answer in not_tried)
        assert len(judge.seen) == 4
        healthy = True
        time.sleep(0.31)
        assert asks.ask([call(), call(), call()]) == [7, 7, 7]
        assert len(judge.seen) == 7


def test_failures_with_answers_between_them_open_no_breaker(net: FakeNet) -> None:
    async def every_other(seen: Seen) -> web.Response:
        return text("wrong") if seen.number % 2 else text("down", 500)

    with fake_judge(net, every_other) as judge, caller(judge.url, breaker_failures=2, breaker_cooldown=30.0) as asks:
        failures = [failure for _ in range(4) for failure in asks.ask([call()])]
        assert all(isinstance(failure, ScoreFailure) and "wrong answer" in failure.reason for failure in failures)
        assert len(judge.seen) == 8


def test_time_outs_open_a_breaker(net: FakeNet) -> None:
    settings = {"breaker_failures": 2, "breaker_cooldown": 30.0, "call_timeout": 0.05, "max_attempts": 2}
    with fake_judge(net, hang) as judge, caller(judge.url, **settings) as asks:
        [late], [not_asked] = asks.ask([call()]), asks.ask([call()])
        assert isinstance(late, ScoreFailure)
        assert "call_timeout=0.05" in late.reason
        assert isinstance(not_asked, ScoreFailure)
        assert "left alone" in not_asked.reason
        assert len(judge.seen) == 2


def test_calls_wait_for_a_breaker_that_soon_lets_one_through(net: FakeNet) -> None:
    async def recovers(seen: Seen) -> web.Response:
        return text(seen.body) if seen.number >= 2 else text("down", 500)

    with (
        fake_judge(net, recovers) as judge,
        caller(judge.url, breaker_failures=2, breaker_cooldown=0.2, max_backoff=1.0, concurrency=2) as asks,
    ):
        start = time.monotonic()
        assert asks.ask([call(str(index)) for index in range(6)]) == list(range(6))
        assert 0.2 <= time.monotonic() - start < 1.0


def test_an_endpoint_whose_breaker_is_open_is_left_out(net: FakeNet) -> None:
    async def down(seen: Seen) -> web.Response:
        return text("down", 500)

    with fake_judge(net, down) as bad, fake_judge(net, echo) as good:
        with caller(bad.url, good.url, breaker_failures=2, breaker_cooldown=30.0, concurrency=1) as asks:
            assert asks.ask([call(str(index)) for index in range(30)]) == list(range(30))
        assert len(bad.seen) == 2


def test_retry_after_is_waited_for(net: FakeNet) -> None:
    async def asks_for_a_pause(seen: Seen) -> web.Response:
        return text(seen.body) if seen.number else text("later", 429, Retry_After="1")

    with fake_judge(net, asks_for_a_pause) as judge, caller(judge.url, max_backoff=2.0) as asks:
        start = time.monotonic()
        assert asks.ask([call()]) == [7]
        assert 1.0 <= time.monotonic() - start < 1.6


def test_an_endpoint_that_asks_for_too_long_a_pause_is_out(net: FakeNet) -> None:
    async def asks_for_a_pause(seen: Seen) -> web.Response:
        return text("later", 503, Retry_After="60")

    with fake_judge(net, asks_for_a_pause) as judge, fake_judge(net, echo) as other:
        with caller(judge.url) as asks:
            start = time.monotonic()
            failures = [*asks.ask([call()]), *asks.ask([call()])]
            assert time.monotonic() - start < 0.5
        assert all(isinstance(failure, ScoreFailure) and failure.outage for failure in failures)
        assert all("left alone" in failure.reason for failure in failures if isinstance(failure, ScoreFailure))
        assert len(judge.seen) == 1
        with caller(judge.url, other.url, concurrency=1) as asks:
            assert asks.ask([call(str(index)) for index in range(9)]) == list(range(9))
        assert len(judge.seen) == 2
