"""A thousand requests at once against `unigrpo reward serve` as a user starts it, and what it costs on the wire."""

import asyncio
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import numpy as np
import torch

from benchmarks.harness import RESULTS, ROOT, Figure, report
from reward_server.protocol import SCORE_PATH, encode_request, read_answer
from unigrpo.pictures import encode_png
from unigrpo.shapes.plan import draw_plan
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.shapes.render import render
from unigrpo.types import Prompt, Score

REQUESTS = 1000
ROUNDS = 3
START_SECONDS = 180
LARGE = 200
"""Height and width of a picture of noise whose PNG has over 100 kB."""


def measure() -> Iterator[Figure]:
    with service() as url:
        rounds = [asyncio.run(all_at_once(url, seed)) for seed in range(ROUNDS)]
        counters = asyncio.run(counted(url))
    answered = sum(len(seconds) for seconds in rounds)
    judged = counters['verdicts_total{source="judged",verifier="geneval"}']
    note = f"{ROUNDS} rounds of {REQUESTS} requests of one picture each, one judge replica; the client on the same cores"
    yield Figure(name="requests lost", value=ROUNDS * REQUESTS - answered, unit="", at_most=0, note=note)
    yield Figure(name="pictures judged twice", value=judged - answered, unit="", at_most=0, note="counted by the service")
    p99 = float(np.median([np.quantile(seconds, 0.99) for seconds in rounds]))
    yield Figure(name="p99 of a request, all sent at once", value=p99, unit="s", note="median of rounds")
    rate = float(np.median([REQUESTS / max(seconds) for seconds in rounds]))
    yield Figure(name="throughput", value=rate, unit="requests/s", note="median of rounds")
    yield wire()


def wire() -> Figure:
    """Bytes of a request over those of its pictures."""
    generator = torch.Generator().manual_seed(0)
    picture = encode_png(torch.randint(0, 256, (LARGE, LARGE, 3), generator=generator, dtype=torch.uint8))
    body, content_type = encode_request([shapes_prompts("train")[0]], [picture])
    return Figure(
        name="bytes on the wire over bytes of the picture",
        value=(len(body) + len(content_type)) / len(picture),
        unit="x",
        at_most=1.05,
        note=f"one picture of {len(picture) / 1e3:.0f} kB a request, metadata of the shapes world",
    )


@contextmanager
def service() -> Iterator[str]:
    """The URL of the shapes world's judge, once it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    preset = "configs/shapes_reward_service.yaml"
    command = [sys.executable, "-m", "cluster.cli", "reward", "serve", preset, f"port={port}", "replicas.most=1"]
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "reward_service_command.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            asyncio.run(_ready(f"http://127.0.0.1:{port}"))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


async def _ready(url: str) -> None:
    async with asyncio.timeout(START_SECONDS), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.2)


async def all_at_once(url: str, seed: int) -> list[float]:
    """Seconds of each request that was answered with a score."""
    rng = np.random.default_rng(seed)
    prompts = [shapes_prompts("train")[index % 64] for index in range(REQUESTS)]
    bodies = [encode_request([prompt], [_picture(prompt, rng)]) for prompt in prompts]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(body: bytes, content_type: str) -> float | None:
            started = time.perf_counter()
            async with session.post(url + SCORE_PATH, data=body, headers={"Content-Type": content_type}) as response:
                content = await response.read()
                seconds = time.perf_counter() - started
            scored = response.status == 200 and isinstance(read_answer(content, 1).verdicts[0], Score)
            return seconds if scored else None

        answered = await asyncio.gather(*(one(*body) for body in bodies))
    return [seconds for seconds in answered if seconds is not None]


async def counted(url: str) -> dict[str, float]:
    """The service's counters."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        lines = re.findall(r"^unigrpo_reward_(\S+) (\S+)$", await response.text(), re.MULTILINE)
    return {name: float(value) for name, value in lines}


def _picture(prompt: Prompt, rng: np.random.Generator) -> bytes:
    """A right picture with a pixel of its own, so that no two are equal."""
    image = torch.from_numpy(render(draw_plan(prompt.metadata, rng), rng))
    image[0, 0] = torch.from_numpy(rng.integers(0, 256, 3, dtype=np.uint8))
    return encode_png(image)


if __name__ == "__main__":
    report("reward_service", measure())
