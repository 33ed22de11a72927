"""The rules of asking: order, retries, deadlines, slots, threads, and what is never done."""

import asyncio
import gc
import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest
from aiohttp import web

from reward_server.remote.calls import Call, Caller
from tests.reward_server.remote.fakes import FakeNet, Seen, call, caller, echo, fake_judge, hang, number, remote, text, until
from unigrpo.types import ScoreFailure


def only(answers: list[Any]) -> ScoreFailure:
    [answer] = answers
    assert isinstance(answer, ScoreFailure)
    return answer


def test_answers_come_in_the_order_of_the_calls(net: FakeNet) -> None:
    async def late_first(seen: Seen) -> web.Response:
        await asyncio.sleep(0.2 / (1 + int(seen.body)))
        return text(seen.body)

    with fake_judge(net, late_first) as judge, caller(judge.url) as asks:
        assert asks.ask([call(str(index)) for index in range(10)]) == list(range(10))
        assert asks.ask([]) == []
    assert asks.num_retries == asks.num_hedges == 0


def test_what_is_sent(net: FakeNet) -> None:
    sent: Call[int] = Call(path="/chat/x", body=lambda: (b"5", "a/b"), read=number, idempotency_key="k1")
    with fake_judge(net, echo) as judge, caller(f"{judge.url}/v1/") as asks:
        assert asks.ask([sent]) == [5]
    [seen] = judge.seen
    assert (seen.path, seen.body) == ("/v1/chat/x", b"5")
    expected = {"Content-Type": "a/b", "Idempotency-Key": "k1", "Accept-Encoding": "identity", "Content-Length": "1"}
    assert expected.items() <= seen.headers.items()
    assert "Authorization" not in seen.headers


BUSY = [408, 425, 429, 500, 501, 502, 503, 504, 529, 599]
MISCONFIGURED = [401, 402, 403, 404, 405, 407, 410, 421, 426, 451, 300, 302, 307, 201, 204, 206, 999]


@pytest.mark.parametrize("status", [*BUSY, *MISCONFIGURED])
def test_an_outage_is_asked_again_with_the_same_key(net: FakeNet, status: int) -> None:
    async def second_time_lucky(seen: Seen) -> web.Response:
        return text("7") if seen.number else text("" if status == 204 else "busy", status)

    with fake_judge(net, second_time_lucky) as judge, caller(judge.url) as asks:
        assert asks.ask([call(key="k2")]) == [7]
        assert asks.num_retries == 1
    assert [seen.headers["Idempotency-Key"] for seen in judge.seen] == ["k2", "k2"]


@pytest.mark.parametrize("status", [400, 406, 409, 411, 412, 413, 414, 415, 417, 418, 422, 428, 431, 499])
def test_a_status_about_the_request_is_final(net: FakeNet, status: int) -> None:
    async def refuses(seen: Seen) -> web.Response:
        return text("because\x00\x1b[31m of 7", status)

    with fake_judge(net, refuses) as judge, caller(judge.url) as asks:
        failure = only(asks.ask([call()]))
    assert not failure.outage
    assert f"HTTP {status}" in failure.reason
    assert failure.reason.isprintable()
    assert "of 7" in failure.reason
    assert len(judge.seen) == 1


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308])
def test_redirects_are_not_followed(net: FakeNet, status: int) -> None:
    async def elsewhere(seen: Seen) -> web.Response:
        return text("" if status == 304 else "7", status, Location=f"{other.url}/secret")

    with fake_judge(net, echo) as other, fake_judge(net, elsewhere) as judge, caller(judge.url, max_attempts=1) as asks:
        failure = only(asks.ask([call()]))
    assert failure.outage
    assert f"HTTP {status}, a redirect" in failure.reason
    assert "secret" not in failure.reason
    assert (len(judge.seen), len(other.seen)) == (1, 0)


def test_attempts_are_counted_and_end(net: FakeNet, caplog: pytest.LogCaptureFixture) -> None:
    async def busy(seen: Seen) -> web.Response:
        return text("all tables taken", 503)

    with fake_judge(net, busy) as judge, caller(judge.url, max_attempts=3) as asks:
        failure = only(asks.ask([call()]))
        assert asks.num_retries == 2
    assert failure.outage
    assert "all 3 attempts failed" in failure.reason
    assert "all tables taken" in failure.reason
    assert len(judge.seen) == 3
    warnings = [record for record in caplog.records if "all tables taken" in record.getMessage()]
    assert [record.levelname for record in warnings] == ["WARNING"] * 3
    assert all(f"127.0.0.1:{judge.port}: HTTP 503" in record.getMessage() for record in warnings)


def test_a_wrong_answer_fails_alone_is_quoted_and_not_asked_again(net: FakeNet, caplog: pytest.LogCaptureFixture) -> None:
    async def confused(seen: Seen) -> web.Response:
        return text(seen.body if seen.body != b"2" else "thirteen\n" + 2000 * "x")

    with fake_judge(net, confused) as judge, caller(judge.url) as asks:
        first, second, third = asks.ask([call("1"), call("2"), call("3")])
    assert (first, third) == (1, 3)
    assert isinstance(second, ScoreFailure)
    assert not second.outage
    assert "no whole number" in second.reason
    assert "thirteen?xxx" in second.reason
    assert len(second.reason) < 700
    assert second.reason in caplog.text
    assert len(judge.seen) == 3


def test_nobody_there_is_an_outage(net: FakeNet) -> None:
    with fake_judge(net, echo) as judge:
        pass
    with caller(judge.url, max_attempts=2) as asks:
        failure = only(asks.ask([call()]))
        assert asks.num_retries == 1
    assert failure.outage
    assert "Connect" in failure.reason


def test_an_attempt_has_a_deadline(net: FakeNet) -> None:
    async def hangs_once(seen: Seen) -> web.Response:
        return await (echo if seen.number else hang)(seen)

    with fake_judge(net, hangs_once) as judge, caller(judge.url, call_timeout=0.2) as asks:
        start = time.monotonic()
        assert asks.ask([call()]) == [7]
        assert 0.2 <= time.monotonic() - start < 0.8
        assert asks.num_retries == 1
        until(lambda: judge.dropped == 1)


def test_a_batch_has_a_deadline_and_leaves_nothing_running(net: FakeNet) -> None:
    async def hangs(seen: Seen) -> web.Response:
        return await (echo if seen.body == b"1" else hang)(seen)

    with fake_judge(net, hangs) as judge, caller(judge.url, call_timeout=0.3, batch_timeout=0.3, concurrency=2) as asks:
        start = time.monotonic()
        answers = asks.ask([call("1"), *(call("2") for _ in range(8))])
        assert time.monotonic() - start < 0.8
        assert answers[0] == 1
        assert all(isinstance(answer, ScoreFailure) and answer.outage for answer in answers[1:])
        assert all("batch_timeout=0.3" in answer.reason for answer in answers[1:] if isinstance(answer, ScoreFailure))
        assert asks.ask([call("1"), call("1")]) == [1, 1]  # the slots are free again
        until(lambda: judge.at_once == 0)


def test_an_endpoint_works_on_no_more_than_its_slots_whatever_the_threads(net: FakeNet) -> None:
    async def slow(seen: Seen) -> web.Response:
        await asyncio.sleep(0.02)
        return text(seen.body)

    with fake_judge(net, slow) as judge, caller(judge.url, concurrency=3) as asks:
        answers: dict[int, list[Any]] = {}

        def ask(first: int) -> None:
            answers[first] = asks.ask([call(str(first + place)) for place in range(6)])

        threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 100, 200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
    assert answers == {first: [first + place for place in range(6)] for first in (0, 100, 200)}
    assert judge.most_at_once == 3


def test_a_mistake_of_the_reader_is_raised_and_ends_the_others(net: FakeNet) -> None:
    def broken(content: bytes) -> int:
        raise KeyError("score")

    async def hangs_for_one(seen: Seen) -> web.Response:
        return await (hang if seen.body == b"1" else echo)(seen)

    with fake_judge(net, hangs_for_one) as judge, caller(judge.url) as asks:
        start = time.monotonic()
        with pytest.raises(KeyError, match="score"):
            asks.ask([call("1"), call("2", read=broken)])
        assert time.monotonic() - start < 0.9
        assert asks.ask([call("3")]) == [3]
        until(lambda: judge.at_once == 0)


def test_interrupting_the_caller_ends_what_is_in_flight(net: FakeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    result = Future.result

    def interrupted(future: Any, timeout: float | None = None) -> Any:
        if timeout is None:  # asyncio's own, of the thread that made the body
            return result(future)
        until(lambda: judge.at_once == 1)
        raise KeyboardInterrupt

    with fake_judge(net, hang) as judge, caller(judge.url, call_timeout=5.0) as asks:
        with monkeypatch.context() as patch:
            patch.setattr(Future, "result", interrupted)
            with pytest.raises(KeyboardInterrupt):
                asks.ask([call()])
        until(lambda: judge.dropped == 1)


def test_closing_ends_what_is_in_flight_and_the_thread(net: FakeNet) -> None:
    before = set(threading.enumerate())
    with fake_judge(net, hang) as judge:
        asks = Caller(remote(judge.url))
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.extend(asks.ask([call()])))
        thread.start()
        until(lambda: judge.at_once == 1)
        asks.close()
        thread.join(5)
        assert only(answers).outage
        assert "closed" in only(answers).reason
    assert not {thread for thread in set(threading.enumerate()) - before if thread.name == "remote-calls"}
    asks.close()
    with pytest.raises(RuntimeError, match="closed"):
        asks.ask([call()])


def test_a_forgotten_caller_ends_its_thread(net: FakeNet) -> None:
    before = set(threading.enumerate())
    with fake_judge(net, echo) as judge:
        asks = Caller(remote(judge.url))
        assert asks.ask([call()]) == [7]
        threads = set(threading.enumerate()) - before
        assert len(threads) == 2  # the event loop's, and one that makes bodies
        del asks
        until(lambda: gc.collect() >= 0 and not any(thread.is_alive() for thread in threads))


def test_proxies_of_the_environment_are_not_used(net: FakeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with fake_judge(net, echo) as judge, caller(judge.url) as asks:
        assert asks.ask([call()]) == [7]


def test_a_caller_needs_an_endpoint() -> None:
    with pytest.raises(ValueError, match="endpoints is empty"):
        Caller(remote())
