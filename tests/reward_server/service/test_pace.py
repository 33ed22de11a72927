"""Bodies that stall or trickle."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from reward_server.service import pace
from reward_server.service.pace import at_a_pace
from reward_server.service.refusal import Refused


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "GRACE", 0.2)
    monkeypatch.setattr(pace, "LEAST_RATE", 1000)


async def chunks(*given: tuple[float, int]) -> AsyncIterator[bytes]:
    for seconds, size in given:
        await asyncio.sleep(seconds)
        yield b"x" * size


async def sizes(*given: tuple[float, int]) -> Sequence[int]:
    return [len(chunk) async for chunk in at_a_pace(chunks(*given))]


def test_a_steady_body_passes_as_it_is() -> None:
    assert asyncio.run(sizes((0, 5), (0.1, 300), (0.1, 0), (0.1, 300))) == [5, 300, 0, 300]


def test_a_stalled_body_is_refused() -> None:
    with pytest.raises(Refused, match=r"nothing of the body came for 0.2 s"):
        asyncio.run(sizes((0, 500), (5, 500)))


def test_a_trickle_is_refused() -> None:
    with pytest.raises(Refused, match=r"more slowly than 1000 bytes a second"):
        asyncio.run(sizes(*[(0.05, 1)] * 100))
