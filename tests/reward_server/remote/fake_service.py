"""A fake of a reward service, and what is sent to it and said by it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import torch
from aiohttp import web
from torch import Tensor

from tests.reward_server.remote.fakes import Handler, Seen, text
from unigrpo.types import Prompt

PROTOCOL = "unigrpo-reward/1"


def prompt(index: int = 0, **metadata: Any) -> Prompt:
    return Prompt(index=index, text=f"picture {index}", metadata=metadata)


def picture(shade: int = 0) -> Tensor:
    return torch.full((4, 6, 3), shade, dtype=torch.uint8)


def answer(*results: Any, **changes: Any) -> dict[str, Any]:
    return {"protocol": PROTOCOL, "version": "v3", "bounds": [0.0, 1.0], "results": list(results)} | changes


def score(value: Any = 0.5, **breakdown: Any) -> dict[str, Any]:
    return {"value": value, "breakdown": breakdown or {"why": "seen"}}


class FakeService:
    """Scores a request's items by position, 0.1 for the first of a batch, and remembers what it was sent."""

    def __init__(self) -> None:
        self.reply: bytes | None = None
        self.requests: list[dict[str, Any]] = []

    async def __call__(self, seen: Seen) -> web.Response:
        parts = await read_parts(seen)
        self.requests.append(json.loads(parts[0][1]))
        if self.reply is not None:
            return text(self.reply)
        results = [score((place + 1) / 10, shade=float(parts[1 + place][1].count(b"IHDR"))) for place in range(len(parts) - 1)]
        return text(json.dumps(answer(*results)))


async def read_parts(seen: Seen) -> list[tuple[str, bytes]]:
    """Name and content of each part of a multipart body, split by hand."""
    boundary = seen.headers["Content-Type"].partition("boundary=")[2].encode()
    parts = []
    for part in seen.body.split(b"--" + boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        parts.append((head.partition(b'name="')[2].partition(b'"')[0].decode(), content.removesuffix(b"\r\n")))
    return parts


def served(version: str = "v3", first: Callable[[], Awaitable[None]] | None = None) -> Handler:
    """A service of some version that does something first."""

    async def answers(seen: Seen) -> web.Response:
        if first:
            await first()
        return text(json.dumps(answer(*[score()] * (len(await read_parts(seen)) - 1), version=version)))

    return answers


def when_all_are_here(count: int) -> Callable[[], Awaitable[None]]:
    """Waits until so many requests wait."""
    together, here = asyncio.Event(), []

    async def wait() -> None:
        here.append(1)
        if len(here) == count:
            together.set()
        await together.wait()

    return wait
