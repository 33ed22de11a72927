"""Every bad request has its status, and the service lives on in the memory it had."""

import asyncio
import contextlib
import http.client
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from configs.reward_service import Limits
from configs.verifiers import GenevalReward, RandomReward
from reward_server.protocol import SCORE_PATH
from reward_server.service import batching, http as service_http
from reward_server.service.batching import Batched
from reward_server.service.judges import EncodedItem, Verdict
from reward_server.service.replica import JudgeReplica
from tests.reward_server.service.bad_requests import LIMITS, Bad, asked, bad_requests, form, http as request, image, undecodable
from tests.reward_server.service.fakes import PROMPTS, TOKEN, Live, drawn, live
from unigrpo.pictures import encode_png
from unigrpo.types import Prompt, Score

BAD = list(bad_requests())
GROWTH = 64 << 20
"""Bytes by which the process's memory may grow at its height: two bodies, a decoded picture and Python's own."""
WEIGHT = 2 << 30
"""Bytes of a body that is sent in vain."""


@pytest.fixture(scope="module")
def service() -> Iterator[Live]:
    reward = GenevalReward(detector="shapes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service_http, "LINGER_SECONDS", 0.3)
        patch.setattr(service_http, "HEADER_SECONDS", 0.5)
        with live(reward, {"geneval": JudgeReplica(reward, LIMITS)}, limits=LIMITS, request_timeout=2.0) as running:
            yield running


def test_there_are_many() -> None:
    assert len(BAD) >= 150
    assert len({bad.name for bad in BAD}) == len(BAD)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_request_has_its_status(service: Live, bad: Bad) -> None:
    status, body = exchanged(service, bad.sent)
    assert status == bad.status, body
    if not body.startswith(b"Invalid HTTP request"):
        message = json.loads(body)["error"]
        assert not re.search(r"Traceback|site-packages|/work|\.py|0x[0-9a-f]{6}", message)
        assert TOKEN not in message


@pytest.mark.parametrize("name", undecodable())
def test_a_picture_that_cannot_be_decoded_fails_alone(service: Live, name: str) -> None:
    content, kind = undecodable()[name]
    right = {"prompt": PROMPTS[0].text, "metadata": dict(PROMPTS[0].metadata)}
    parts = asked({"protocol": "unigrpo-reward/1", "items": [right] * 2}), image(content, kind=kind), image(drawn(PROMPTS[0]))
    status, body = exchanged(service, request(form(*parts)))
    assert status == 200, body
    failed, scored = json.loads(body)["results"]
    assert "the picture cannot be decoded" in failed["failure"]
    assert failed["outage"] is False
    assert scored["value"] == 1.0


def test_refusals_say_what_is_wrong(service: Live) -> None:
    said = {bad.name: json.loads(exchanged(service, bad.sent)[1])["error"] for bad in BAD if bad.name in SAID}
    assert all(part in said[name] for name, part in SAID.items()), said


SAID = {
    "json: protocol 2": "'unigrpo-reward/2'; spoken here is 'unigrpo-reward/1'",
    "json: NaN": "NaN",
    "json: a key twice": "'a' is given twice",
    "json: no prompt": "items.0.prompt",
    "body: more items than allowed": "5 items; 4 are allowed",
    "body: fewer pictures than items": "1 parts `image` for 2 items",
    "picture: PNG, 513 x 512": "513 x 512 pixels; 262144 are allowed",
    "picture: second of two cut in the header": "picture 2 of 2",
    "length: none": "Content-Length",
}


def test_after_all_of_them_it_answers_and_has_not_grown(service: Live) -> None:
    for bad in BAD:  # once before measuring: what is loaded once is not growth
        exchanged(service, bad.sent)
    with growth() as peak:
        for bad in BAD:
            exchanged(service, bad.sent)
        assert scored(service) == 1.0
    assert peak() < GROWTH


def test_few_bytes_of_many_pixels_are_decoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    side, reward = 1024, RandomReward()
    monkeypatch.setattr(batching, "CALL_PIXELS", side * side)
    content = encode_png(torch.full((side, side, 3), 7, dtype=torch.uint8))
    prompt = Prompt(index=0, text="x", metadata={})
    items = [EncodedItem(prompt=prompt, image=content, pixels=side * side)] * 48  # 144 MiB decoded

    async def judged() -> list[Verdict]:
        batched = Batched(JudgeReplica(reward, Limits()), batch_size=32, max_calls=2, patience=60, timeout=60)
        return await batched.judge(items)

    with growth() as peak:
        verdicts = asyncio.run(judged())
    assert len(verdicts) == 48
    assert all(isinstance(verdict, Score) for verdict in verdicts)
    assert peak() < GROWTH


@pytest.mark.parametrize("kind", ["announced", "in chunks", "in a part", "without a token"])
def test_two_gigabytes_are_not_held(service: Live, kind: str) -> None:
    start = {
        "announced": request(content_length=str(WEIGHT)),
        "in chunks": request(b"40000000\r\n", ("transfer-encoding", "chunked"), content_length=None),
        "in a part": request(form(asked(), image(), ending="")[:-2], content_length=str(LIMITS.body_bytes)),
        "without a token": request(content_length=str(WEIGHT), authorization=None),
    }[kind]
    with growth() as peak, connected(service) as sock:
        sent, block = len(start), bytes(1 << 20)
        sock.sendall(start)
        try:
            while sent < WEIGHT:
                sent += sock.send(block)
        except OSError:
            pass  # it hung up
        assert sent < WEIGHT
    assert peak() < GROWTH
    assert scored(service) == 1.0


def test_a_sender_that_only_writes_still_finds_the_answer(service: Live) -> None:
    connection = http.client.HTTPConnection(service.host, service.port, timeout=10)
    connection.request("POST", SCORE_PATH, bytes(20 << 20), {"Authorization": f"Bearer {TOKEN}"})
    response = connection.getresponse()
    assert (response.status, response.getheader("connection")) == (413, "close")
    connection.close()


@pytest.mark.parametrize("kind", ["no byte", "slow headers", "slow headers of a second request"])
def test_headers_have_a_deadline(service: Live, kind: str) -> None:
    with connected(service) as sock:
        if kind == "slow headers of a second request":
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while b"alive" not in answer:
                answer += sock.recv(1 << 16)
        ended = time.monotonic() + 10
        while time.monotonic() < ended:
            if kind != "no byte":
                try:
                    sock.sendall(b"P")
                except OSError:
                    return
            sock.settimeout(0.1)
            try:
                if sock.recv(1 << 16) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return
    pytest.fail("the connection stayed open")


@pytest.mark.parametrize("more", [[("x", "y" * (1 << 20))], [(f"x{number}", "y" * 50) for number in range(20_000)]])
def test_headers_have_a_size(service: Live, more: list[tuple[str, str]]) -> None:
    with contextlib.suppress(ConnectionResetError):  # it hung up on a sender that had not ended
        assert exchanged(service, request(b"", *more))[0] == 400
    assert scored(service) == 1.0


def test_a_body_has_a_deadline(service: Live) -> None:
    whole = request(form(asked(), image()))
    started = time.monotonic()
    with connected(service) as sock:
        sock.sendall(whole[:-40])
        assert b" 408 " in sock.recv(1 << 16)
    assert 1.9 < time.monotonic() - started < 5
    assert scored(service) == 1.0


def test_who_hangs_up_leaves_nothing_behind(service: Live) -> None:
    whole = request(form(asked(), image()))
    for cut in [1, 40, 200, 300, len(whole) - 50, len(whole) - 1, len(whole)]:
        for abrupt in (False, True):
            sock = connected(service)
            if abrupt:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(whole[:cut])
            sock.close()
    assert scored(service) == 1.0
    ended = time.monotonic() + 10
    while (left := in_flight(service)) and time.monotonic() < ended:
        time.sleep(0.05)
    assert left == 0


def test_file_names_extra_headers_and_what_follows_a_picture_mean_nothing(service: Live) -> None:
    disposition = 'form-data; name="image"; filename="../../../etc/passwd"'
    headers = {"Content-Disposition": disposition, "Content-Type": "image/png", "X-Odd": "1"}
    odd = (headers, drawn(PROMPTS[0]) + b"PK\x03\x04<?php")
    item = {"prompt": PROMPTS[0].text, "metadata": dict(PROMPTS[0].metadata)}
    body = form(asked({"protocol": "unigrpo-reward/1", "items": [item]}), odd)
    status, content = exchanged(service, request(body))
    assert status == 200
    assert json.loads(content)["results"][0]["value"] == 1.0


def scored(service: Live) -> float:
    """The value of a right picture."""
    item = {"prompt": PROMPTS[0].text, "metadata": dict(PROMPTS[0].metadata)}
    body = form(asked({"protocol": "unigrpo-reward/1", "items": [item]}), image(drawn(PROMPTS[0], seed=time.time_ns())))
    status, content = exchanged(service, request(body))
    assert status == 200, content
    value: float = json.loads(content)["results"][0]["value"]
    return value


def in_flight(service: Live) -> float:
    content = exchanged(service, request(line="GET /metrics HTTP/1.1"))[1].decode()
    [number] = re.findall(r"^unigrpo_reward_requests_in_flight (\S+)$", content, re.MULTILINE)
    return float(number)


def connected(service: Live) -> socket.socket:
    return socket.create_connection((service.host, service.port), timeout=10)


def exchanged(service: Live, sent: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to raw bytes, which are sent while it is read."""
    with connected(service) as sock:
        sender = threading.Thread(target=_send, args=(sock, sent))
        sender.start()
        response = http.client.HTTPResponse(sock)
        response.begin()
        body = response.read()
        sender.join()
    return response.status, body


def _send(sock: socket.socket, sent: bytes) -> None:
    with contextlib.suppress(OSError):  # it was refused before its end
        sock.sendall(sent)


class growth:
    """How many bytes the process's memory grew at its height inside the block."""

    def __enter__(self) -> "growth":
        Path("/proc/self/clear_refs").write_text("5")  # forgets the old height
        self._before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self._height = _status("VmHWM")

    def __call__(self) -> int:
        return self._height - self._before


def _status(name: str) -> int:
    [kilobytes] = re.findall(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kilobytes) << 10
