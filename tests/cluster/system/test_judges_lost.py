"""Judges killed, hung and restarted while a run trains: it waits for them, and ends with the parameters of one undisturbed."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.system.runs import CPUS, Command, metrics_rows, ray_processes, run_values, wait_until, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS = 5
Service = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def serve(port: int) -> Iterator[Service]:
    """Starts a reward service on `port` and waits until it is ready."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        script = Path(__file__).with_name("service_process.py")
        root = Path(__file__).parents[3]
        started.append(subprocess.Popen([sys.executable, str(script), str(port)], env={**os.environ, "PYTHONPATH": str(root)}))
        wait_until(lambda: is_ready(port), "a reward service that is ready", timeout=120)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_run_whose_judges_were_lost_ends_as_one_whose_were_not(
    command: Command, serve: Service, start: Path, tmp_path: Path, port: int
) -> None:
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    service = serve()
    undisturbed = command("train", config_of(start, whole, port))
    output, _ = undisturbed.communicate(timeout=500)
    assert undisturbed.returncode == 0, output
    assert "paused" not in output

    run = command("train", config_of(start, disturbed, port))
    assert run.stdout is not None
    said = iter(run.stdout.readline, "")
    lines = [until(said, "step 1/")]
    service.kill()
    service.wait()
    lines.append(until(said, "paused: "))
    service = serve()
    lines += [until(said, "judges of reward answer again"), until(said, "step 2/")]
    service.send_signal(signal.SIGSTOP)
    lines.append(until(said, "paused: "))
    service.send_signal(signal.SIGCONT)
    lines += [until(said, "judges of reward answer again"), until(said, "step 3/")]
    kill_reward_actor(run.pid, signal.SIGKILL)
    lines.append(until(said, "step 4/"))
    kill_reward_actor(run.pid, signal.SIGSTOP)
    lines.append(until(said, "step 5/"))
    rest, _ = run.communicate(timeout=500)
    assert run.returncode == 0, [*lines, rest]

    rows = metrics_rows(disturbed)
    assert sum(row["scores/retried"] for row in rows) > 0
    assert {row["groups/dropped"] for row in rows} == {0}
    assert list(map(learned, rows)) == list(map(learned, metrics_rows(whole)))
    for name in ("policy/ema.safetensors", "exp_avg.safetensors", "exp_avg_sq.safetensors"):
        newest = f"checkpoints/step-{STEPS:06d}/{name}"
        assert (disturbed / newest).read_bytes() == (whole / newest).read_bytes(), name


def config_of(start: Path, run_dir: Path, port: int) -> Path:
    remote = {
        "endpoints": [f"http://127.0.0.1:{port}"],
        "private_hosts": ["127.0.0.1"],
        "call_timeout": 2.0,
        "batch_timeout": 4.0,
        "max_attempts": 2,
        "backoff": 0.1,
        "max_backoff": 0.2,
        "breaker_cooldown": 0.2,
    }
    reward = {"kind": "http", "remote": remote, "judge_timeout": 10.0, **CPUS}
    changes = {"steps": STEPS, "reward": reward, "checkpoint.every": STEPS, "evaluation": {"every": None}}
    return write_config(run_dir.with_suffix(".yaml"), run_values(start, run_dir, changes))


def kill_reward_actor(driver: int, how: signal.Signals) -> None:
    [actor] = [pid for pid, name in ray_processes(driver).items() if "RewardActor" in name]
    os.kill(actor, how)


def until(lines: Iterator[str], wanted: str) -> str:
    """The first of `lines` that holds `wanted`."""
    seen = []
    for line in lines:
        seen.append(line)
        if wanted in line:
            return line
    raise AssertionError(f"the run ended without {wanted!r}:\n{''.join(seen)}")


def learned(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what was asked of judges."""
    return {name: value for name, value in row.items() if not name.startswith("scores/")}
