"""A thousand requests at once: none lost, none judged twice, none given another's verdict."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import aiohttp
import pytest
import torch

from configs.verifiers import RandomReward
from reward_server.protocol import SCORE_PATH, encode_request, read_answer
from reward_server.service.batching import Batched
from reward_server.service.judges import EncodedItem
from tests.reward_server.service.fakes import TOKEN, FakeJudge, live
from unigrpo.pictures import encode_png
from unigrpo.types import Prompt, Score

REQUESTS, DISTINCT = 1000, 900


def picture(number: int) -> bytes:
    return encode_png(torch.tensor([number % 256, number // 256, 0], dtype=torch.uint8).expand(24, 24, 3))


def value(image: bytes) -> float:
    return int.from_bytes(blake2b(image, digest_size=6).digest()) / 2**48


@pytest.mark.slow
def test_a_thousand_at_once() -> None:
    def answer(items: Sequence[EncodedItem]) -> list[Score]:
        return [Score(value=value(each.image), breakdown={}) for each in items]

    judge = FakeJudge(answer, seconds=0.01)
    batched = Batched(judge, batch_size=32, max_calls=4, patience=30, timeout=30)
    with live(RandomReward(), {"random": batched}) as service:
        seconds = asyncio.run(all_at_once(service.url + SCORE_PATH))
    asked = Counter(each.image for each in judge.asked)
    assert len(asked) == DISTINCT
    assert set(asked.values()) == {1}
    ordered = sorted(seconds)
    print(f"{REQUESTS} requests: p50 {ordered[500]:.2f} s, p99 {ordered[989]:.2f} s, {REQUESTS / ordered[-1]:.0f} a second")
    assert len(ordered) == REQUESTS


async def all_at_once(url: str) -> list[float]:
    """Seconds of each request; every one has its own verdict."""
    started = time.perf_counter()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {TOKEN}"}) as session:

        async def one(number: int) -> float:
            image = picture(number % DISTINCT)
            body, content_type = encode_request([Prompt(index=0, text="x", metadata={})], [image])
            async with session.post(url, data=body, headers={"Content-Type": content_type}) as response:
                assert response.status == 200
                [verdict] = read_answer(await response.read(), 1).verdicts
            assert verdict == Score(value=value(image), breakdown={})
            return time.perf_counter() - started

        return await asyncio.gather(*(one(number) for number in range(REQUESTS)))
