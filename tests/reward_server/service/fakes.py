"""A service in a thread of the test's process, pictures of the shapes world, and judges that only pretend."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from configs.reward import Reward
from configs.reward_service import Limits
from reward_server.protocol import PROTOCOL
from reward_server.service.app import create_app
from reward_server.service.http import server
from reward_server.service.judges import Description, EncodedItem, Judge, Unavailable, Verdict
from unigrpo.pictures import encode_png
from unigrpo.shapes.plan import draw_plan
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.shapes.render import render
from unigrpo.types import Prompt, Score

TOKEN = "a-token-of-the-tests"
PROMPTS = shapes_prompts("train")
BLACK = encode_png(torch.zeros(24, 24, 3, dtype=torch.uint8))


@dataclass(frozen=True)
class Live:
    """A service that answers."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@contextmanager
def live(
    reward: Reward,
    judges: Mapping[str, Judge],
    *,
    limits: Limits | None = None,
    request_timeout: float = 20.0,
    token: str | None = TOKEN,
) -> Iterator[Live]:
    """Serve on a free port of 127.0.0.1."""
    app = create_app(reward, judges, limits=limits or Limits(), request_timeout=request_timeout, token=token)
    web = server(app, max_connections=4096)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(web.serve(sockets=[listener])))
        thread.start()
        while not web.started:
            assert thread.is_alive(), "the service ended early"
            time.sleep(0.01)
        try:
            yield Live(*listener.getsockname())
        finally:
            web.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive(), "the service did not end"


def drawn(prompt: Prompt, seed: int = 0) -> bytes:
    """A PNG of a right picture of a prompt of the shapes world."""
    rng = np.random.default_rng(seed)
    return encode_png(torch.from_numpy(render(draw_plan(prompt.metadata, rng), rng)))


def noise(seed: int, size: int = 24) -> bytes:
    """A PNG that no other seed has."""
    generator = torch.Generator().manual_seed(seed)
    return encode_png(torch.randint(0, 256, (size, size, 3), generator=generator, dtype=torch.uint8))


def request_json(*prompts: str) -> dict[str, Any]:
    """The part `request`."""
    return {"protocol": PROTOCOL, "items": [{"prompt": prompt} for prompt in prompts]}


GOOD = Score(value=0.5, breakdown={"part": 0.5, "reason": "as told"})


@dataclass
class FakeJudge:
    """Answers as it is told, and remembers what it was asked."""

    answer: Callable[[Sequence[EncodedItem]], Sequence[Any]] = lambda items: [GOOD] * len(items)
    version: str = "fake"
    bounds: tuple[float, float] = (0.0, 1.0)
    ready: bool = True
    seconds: float = 0.0
    """That it takes."""
    gate: threading.Event | None = None
    """That it waits for."""
    asked: list[EncodedItem] = field(default_factory=list)

    async def is_ready(self) -> bool:
        return self.ready

    async def describe(self) -> Description:
        if not self.ready:
            raise Unavailable("not yet")
        return Description(version=self.version, bounds=self.bounds)

    async def judge(self, items: Sequence[EncodedItem]) -> list[Verdict]:
        self.asked += items
        if self.gate is not None:
            await asyncio.to_thread(self.gate.wait, 30)
        await asyncio.sleep(self.seconds)
        return list(self.answer(items))
