"""The bearer token goes to the endpoints and nowhere else, whatever they do with it."""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from reward_server.remote.calls import Caller
from tests.reward_server.remote.fakes import FakeNet, Seen, call, caller, echo, fake_judge, fake_socket, remote, text
from unigrpo.types import ScoreFailure

TOKEN = "s3cr3t-T0ken-0123456789"


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", TOKEN)
    caplog.set_level(logging.DEBUG)


def test_it_is_sent(net: FakeNet) -> None:
    with fake_judge(net, echo) as judge, caller(judge.url, token_env="JUDGE_TOKEN") as asks:
        assert asks.ask([call()]) == [7]
    assert judge.seen[0].headers["Authorization"] == f"Bearer {TOKEN}"


def repeating(status: int, shape: Callable[[str], str]) -> Callable[[Seen], Any]:
    async def answer(seen: Seen) -> web.Response:
        return text(shape(seen.headers["Authorization"]), status)

    return answer


@pytest.mark.parametrize("status", [200, 401, 503])
@pytest.mark.parametrize("shape", [str, lambda said: 490 * "x" + said, lambda said: 4070 * "x" + said, lambda said: 90 * said])
def test_it_is_in_no_reason_and_no_log_though_the_endpoint_repeats_it(
    net: FakeNet, caplog: pytest.LogCaptureFixture, status: int, shape: Callable[[str], str]
) -> None:
    settings = {"token_env": "JUDGE_TOKEN", "max_attempts": 2}
    with fake_judge(net, repeating(status, shape)) as judge, caller(judge.url, **settings) as asks:
        [failure] = asks.ask([call()])
        shown = repr(asks) + str(vars(asks)) + repr(call()) + repr(failure)
    assert "s3cr3t" not in shown
    assert "s3cr3t" not in caplog.text
    assert f"127.0.0.1:{judge.port}" in caplog.text


def test_it_is_in_no_reason_when_the_endpoint_speaks_no_http(net: FakeNet, caplog: pytest.LogCaptureFixture) -> None:
    async def parrot(reader: Any, writer: Any) -> None:
        writer.write(await reader.readuntil(b"\r\n\r\n"))

    async def parrot_in_a_header(reader: Any, writer: Any) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        said = next(line for line in request.split(b"\r\n") if line.startswith(b"Authorization"))
        writer.write(b"HTTP/1.1 200 OK\r\nX\x01" + said + b"\r\n\r\n")

    for script in (parrot, parrot_in_a_header):
        with fake_socket(net, script) as url, caller(url, token_env="JUDGE_TOKEN", max_attempts=1) as asks:
            [failure] = asks.ask([call()])
        assert isinstance(failure, ScoreFailure)
        assert "s3cr3t" not in failure.reason
    assert "s3cr3t" not in caplog.text


def test_it_is_in_no_exception(net: FakeNet, caplog: pytest.LogCaptureFixture) -> None:
    def broken(content: bytes) -> int:
        raise KeyError("score")

    with (
        fake_judge(net, echo) as judge,
        caller(judge.url, token_env="JUDGE_TOKEN") as asks,
        pytest.raises(KeyError) as error,
    ):
        asks.ask([call(read=broken)])
    assert b"s3cr3t" not in pickle.dumps(error.value)
    assert "s3cr3t" not in str(error.getrepr(style="long"))
    assert "s3cr3t" not in caplog.text


def test_a_missing_token_is_found_when_the_caller_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_TOKEN")
    with pytest.raises(ValueError, match="JUDGE_TOKEN is not set"):
        Caller(remote("https://judge.example.org", token_env="JUDGE_TOKEN"))


def keeper(current: Callable[[], str]) -> Callable[[Seen], Any]:
    """An endpoint that answers who sends the current token, and tells others what they sent."""

    async def answer(seen: Seen) -> web.Response:
        said = seen.headers["Authorization"]
        return text("7") if said == f"Bearer {current()}" else text(said, 401)

    return answer


def test_a_file_is_read_again_when_its_token_is_refused(net: FakeNet, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    current = TOKEN
    with fake_judge(net, keeper(lambda: current)) as judge, caller(judge.url, token_file=path, max_attempts=2) as asks:
        assert asks.ask([call()]) == [7]
        current = "n3w-b3arer-abcdefgh"
        [refused] = asks.ask([call()])
        path.write_text("")
        [still_refused] = asks.ask([call()])
        path.write_text(current)
        assert asks.ask([call(), call()]) == [7, 7]
        assert asks.ask([call()]) == [7]
    said = caplog.text
    for failure in (refused, still_refused):
        assert isinstance(failure, ScoreFailure)
        assert failure.outage
        said += failure.reason
    assert [seen.headers["Authorization"] == f"Bearer {TOKEN}" for seen in judge.seen][-3:] == [False] * 3
    assert "is empty" in said
    assert f"{path} holds another one" in said
    assert not any(piece in said for piece in ("s3cr3t", "n3w-b3arer"))
