"""One data-parallel rank for the tests of a process; DeepSpeed joins its process group once."""

import socket

import pytest

from learner.optimizer import Rank


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def rank() -> Rank:
    return Rank(rank=0, world_size=1, master_addr="127.0.0.1", master_port=free_port())
