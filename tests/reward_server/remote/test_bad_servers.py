"""Servers that lie, stall and talk rubbish: each attempt ends soon, as a failure of the right kind, never as a number."""

import asyncio
import gzip
import time
import zlib
from collections.abc import Iterator

import pytest

from reward_server.remote.calls import Caller
from tests.reward_server.remote.fakes import FakeNet, Script, call, caller, fake_socket
from unigrpo.types import ScoreFailure

OUTAGE, WRONG = True, False
OK = b"HTTP/1.1 200 OK\r\n"
LIMIT = 4096


def says(*pieces: bytes, every: float = 0.0, stays: bool = False) -> Script:
    """Reads the request, writes the pieces, closes (or stays)."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every)
        if stays:
            await asyncio.Event().wait()

    return script


def repeats(start: bytes, piece: bytes, every: float = 0.0) -> Script:
    """Goes on until the other side has had enough."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(start)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every)

    return script


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Does not even read."""


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(OK + b"Content-Length: 5\r\n\r\n12")
    writer.transport.abort()


async def never_reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


def sized(body: bytes, size: int | str, extra: bytes = b"") -> bytes:
    return OK + f"Content-Length: {size}\r\n".encode() + extra + b"\r\n" + body


def chunked(*pieces: bytes, extra: bytes = b"") -> bytes:
    return OK + b"Transfer-Encoding: chunked\r\n" + extra + b"\r\n" + b"".join(pieces)


BOMB = gzip.compress(bytes(1 << 24))
BAD_SERVERS: dict[str, tuple[Script, bool, str]] = {
    "closes at once": (hangs_up, OUTAGE, "Error"),
    "reads, then closes": (says(), OUTAGE, "Server disconnected"),
    "resets within the answer": (resets, OUTAGE, "ClientPayloadError"),
    "never reads": (never_reads, OUTAGE, "call_timeout"),
    "never answers": (says(stays=True), OUTAGE, "call_timeout"),
    "stalls in the status line": (says(b"HTTP/1.1 2", stays=True), OUTAGE, "call_timeout"),
    "stalls in the headers": (says(OK + b"Content-Le", stays=True), OUTAGE, "call_timeout"),
    "stalls in the body": (says(sized(b"1", 5), stays=True), OUTAGE, "call_timeout"),
    "stalls in a chunk": (says(chunked(b"5\r\n12"), stays=True), OUTAGE, "call_timeout"),
    "never ends the chunks": (says(chunked(b"1\r\n7\r\n"), stays=True), OUTAGE, "call_timeout"),
    "trickles the status line": (repeats(b"", b"H", 0.02), OUTAGE, "proper HTTP"),
    "trickles headers": (repeats(OK, b"X: 1\r\n", 0.02), OUTAGE, "call_timeout"),
    "trickles the body": (repeats(sized(b"", 4000), b"7", 0.02), OUTAGE, "call_timeout"),
    "trickles chunks": (repeats(chunked(), b"1\r\n7\r\n", 0.02), OUTAGE, "call_timeout"),
    "trickles an error": (repeats(b"HTTP/1.1 500 No\r\nContent-Length: 4000\r\n\r\n", b"7", 0.02), OUTAGE, "call_timeout"),
    "interim answers without end": (repeats(b"", b"HTTP/1.1 102 Processing\r\n\r\n", 0.01), OUTAGE, "call_timeout"),
    "body shorter than said": (says(sized(b"7", 5)), OUTAGE, "ClientPayloadError"),
    "body longer than said": (says(sized(b"7", 1) + b"junk"), OUTAGE, "proper HTTP"),
    "empty body": (says(sized(b"", 0)), WRONG, "wrong answer"),
    "chunks cut off": (says(chunked(b"1\r\n7\r\n")), OUTAGE, "ClientPayloadError"),
    "chunk shorter than said": (says(chunked(b"5\r\n7\r\n0\r\n\r\n")), OUTAGE, "chunk size"),
    "chunk size no number": (says(chunked(b"zz\r\n7\r\n0\r\n\r\n")), OUTAGE, "chunk size"),
    "chunk size negative": (says(chunked(b"-1\r\n7\r\n0\r\n\r\n")), OUTAGE, "chunk size"),
    "chunk size enormous": (says(chunked(b"ffffffffffffffffff\r\n7\r\n0\r\n\r\n")), OUTAGE, "overflow"),
    "chunk said to be large": (says(chunked(b"7fffffff\r\n7"), stays=True), OUTAGE, "call_timeout"),
    "chunk extension without end": (repeats(chunked(b"1;"), 1024 * b"x", 0.001), OUTAGE, "call_timeout"),
    "length no number": (says(sized(b"7", "seven")), OUTAGE, "proper HTTP"),
    "length negative": (says(sized(b"7", "-1")), OUTAGE, "proper HTTP"),
    "two lengths": (says(sized(b"7", 1, b"Content-Length: 2\r\n")), OUTAGE, "proper HTTP"),
    "length and chunks": (says(chunked(b"1\r\n7\r\n0\r\n\r\n", extra=b"Content-Length: 1\r\n")), OUTAGE, "proper HTTP"),
    "length beyond the limit": (says(sized(b"", LIMIT + 1), stays=True), WRONG, "max_answer_bytes is 4096"),
    "length absurd": (says(sized(b"", 10**18), stays=True), WRONG, "max_answer_bytes"),
    "body beyond the limit": (repeats(OK + b"\r\n", bytes(1024)), WRONG, "max_answer_bytes"),
    "chunks beyond the limit": (repeats(chunked(), b"400\r\n" + bytes(1024) + b"\r\n"), WRONG, "max_answer_bytes"),
    "gzip bomb": (says(sized(BOMB, len(BOMB), b"Content-Encoding: gzip\r\n")), WRONG, "compressed (Content-Encoding: gzip)"),
    "small gzip": (
        says(sized(gzip.compress(b"7"), len(gzip.compress(b"7")), b"Content-Encoding: gzip\r\n")),
        WRONG,
        "compressed (Content-Encoding: gzip)",
    ),
    "deflate": (
        says(sized(zlib.compress(b"7"), len(zlib.compress(b"7")), b"Content-Encoding: deflate\r\n")),
        WRONG,
        "compressed",
    ),
    "brotli": (says(sized(b"7", 1, b"Content-Encoding: br\r\n")), WRONG, "compressed (Content-Encoding: br)"),
    "two encodings": (says(sized(b"7", 1, b"Content-Encoding: identity, gzip\r\n")), WRONG, "compressed"),
    "compressed transfer": (says(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n1\r\n7\r\n0\r\n\r\n"), WRONG, "gzip, chunked"),
    "unsaid gzip": (says(sized(gzip.compress(b"7"), len(gzip.compress(b"7")))), WRONG, "wrong answer"),
    "header too long": (says(OK + b"X: " + 20000 * b"x" + b"\r\n\r\n7"), OUTAGE, "proper HTTP"),
    "header without end": (repeats(OK + b"X: ", 1024 * b"x", 0.001), OUTAGE, "more than 8190 bytes"),
    "headers without end": (repeats(OK, 64 * b"X: yyyyyyyyyyyy\r\n", 0.001), OUTAGE, "Too many headers"),
    "header name broken": (says(OK + b"X\x00Y: 1\r\nContent-Length: 1\r\n\r\n7"), OUTAGE, "proper HTTP"),
    "header folded": (says(OK + b"X: 1\r\n Content-Length: 9\r\n\x01\r\n\r\n7"), OUTAGE, "proper HTTP"),
    "status no number": (says(b"HTTP/1.1 OK\r\nContent-Length: 1\r\n\r\n7"), OUTAGE, "proper HTTP"),
    "status 0": (says(b"HTTP/1.1 000 OK\r\nContent-Length: 1\r\n\r\n7"), OUTAGE, "HTTP 0"),
    "status 999": (says(b"HTTP/1.1 999 OK\r\nContent-Length: 1\r\n\r\n7"), OUTAGE, "HTTP 999"),
    "status 2000": (says(b"HTTP/1.1 2000 OK\r\nContent-Length: 1\r\n\r\n7"), OUTAGE, "proper HTTP"),
    "switches protocols": (says(b"HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n7"), OUTAGE, "HTTP 101"),
    "HTTP 0.9": (says(b"7"), OUTAGE, "proper HTTP"),
    "HTTP/9": (says(b"HTTP/9.9 200 OK\r\nContent-Length: 1\r\n\r\n7"), OUTAGE, "proper HTTP"),
    "TLS": (says(b"\x16\x03\x03\x00\x02\x02\x28"), OUTAGE, "proper HTTP"),
    "SSH": (says(b"SSH-2.0-OpenSSH_9.6\r\n"), OUTAGE, "proper HTTP"),
    "random bytes": (says(bytes(range(255, 0, -1)) * 9), OUTAGE, "proper HTTP"),
    "redirect without target": (says(b"HTTP/1.1 302 Go\r\nContent-Length: 1\r\n\r\n7"), OUTAGE, "HTTP 302"),
    "redirect to a file": (says(b"HTTP/1.1 301 Go\r\nLocation: file:///etc/passwd\r\n\r\n"), OUTAGE, "HTTP 301"),
    "redirect to itself": (says(b"HTTP/1.1 307 Go\r\nLocation: /judge\r\nContent-Length: 0\r\n\r\n"), OUTAGE, "HTTP 307"),
    "retry after nonsense": (
        says(b"HTTP/1.1 429 No\r\nRetry-After: \xff\xfe\r\nContent-Length: 0\r\n\r\n"),
        OUTAGE,
        "HTTP 429",
    ),
    "not UTF-8": (says(sized(b"\xff\xfe\xfd", 3)), WRONG, "wrong answer"),
    "number in another script": (says(sized("７".encode(), 3)), WRONG, "wrong answer"),
}


@pytest.fixture(scope="module")
def current() -> list[Script]:
    return [says()]


@pytest.fixture(scope="module")
def url(net: FakeNet, current: list[Script]) -> Iterator[str]:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await current[0](reader, writer)

    with fake_socket(net, script) as made:
        yield made


@pytest.fixture(scope="module")
def patient(url: str) -> Iterator[Caller]:
    with caller(url, call_timeout=4.0, max_attempts=1, max_answer_bytes=LIMIT, breaker_failures=1000) as made:
        yield made


@pytest.fixture(scope="module")
def impatient(url: str) -> Iterator[Caller]:
    """For servers that would keep anybody waiting."""
    with caller(url, call_timeout=0.15, max_attempts=1, max_answer_bytes=LIMIT, breaker_failures=1000) as made:
        yield made


@pytest.mark.parametrize(("script", "outage", "reason"), BAD_SERVERS.values(), ids=BAD_SERVERS.keys())
def test_bad_server(
    patient: Caller, impatient: Caller, current: list[Script], script: Script, outage: bool, reason: str
) -> None:
    current[0] = script
    start = time.monotonic()
    [failure] = (impatient if reason == "call_timeout" else patient).ask([call()])
    assert time.monotonic() - start < 2.0
    assert isinstance(failure, ScoreFailure)
    assert (failure.outage, reason in failure.reason) == (outage, True), failure.reason
    assert failure.reason.isprintable()
    assert len(failure.reason) < 1300
    current[0] = says(sized(b"7", 1))
    assert patient.ask([call()]) == [7]  # and what came before does no harm to the next call


def test_the_tail_of_one_answer_is_not_the_next_answer(patient: Caller, current: list[Script]) -> None:
    current[0] = says(sized(b"1", 1) + sized(b"2", 1) + sized(b"3", 1))
    assert [patient.ask([call()]) for _ in range(3)] == [[1], [1], [1]]
