"""The thread that fake judges live in, and certificate authorities that are read from disk once."""

import ssl
from collections.abc import Iterator

import pytest

from configs.remote import Remote
from reward_server.remote import calls
from reward_server.remote.transport import trust
from tests.reward_server.remote.fakes import FakeNet


@pytest.fixture(scope="module")
def net() -> Iterator[FakeNet]:
    made = FakeNet()
    yield made
    made.close()


@pytest.fixture(scope="session")
def system_trust() -> ssl.SSLContext:
    return trust(Remote())


@pytest.fixture(autouse=True)
def _authorities_are_read_once(monkeypatch: pytest.MonkeyPatch, system_trust: ssl.SSLContext) -> None:
    """Reading them takes longer than most tests."""
    monkeypatch.setattr(calls, "trust", lambda remote: trust(remote) if remote.ca_file else system_trust)
