"""The thread that fake judges live in."""

from collections.abc import Iterator

import pytest

from tests.reward_server.remote.fakes import FakeNet


@pytest.fixture(scope="module")
def net() -> Iterator[FakeNet]:
    made = FakeNet()
    yield made
    made.close()
