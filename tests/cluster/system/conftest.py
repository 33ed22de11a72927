"""What every test of the running system shares: one small start checkpoint, and the command."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.system.runs import Command, save_start, unigrpo


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small random model and a few prompts (see save_start)."""
    return save_start(tmp_path_factory.mktemp("start"))


@pytest.fixture
def command() -> Iterator[Command]:
    """Starts `unigrpo`; what still runs when the test ends is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str | Path, **environment: str) -> "subprocess.Popen[str]":
        started.append(unigrpo(*arguments, **environment))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        with process:  # waits, and closes its pipe
            pass
