"""A run that is killed and started again ends as one that never was: bit for bit, the wall clock aside."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from learner.checkpoint import read_state
from tests.cluster.system.runs import Command, alive, metrics_rows, ray_processes, run_values, wait_until, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS = 5


def test_killed_twice_equals_never_killed(command: Command, start: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole_run = command("train", config_of(start, whole))
    config = config_of(start, killed)
    kill(command("train", config), os.kill, when=lambda: last_step(killed) == 3)
    kill(command("train", config), os.killpg, when=lambda: any((killed / "checkpoints").glob("*step-000004*")))
    for run in (command("train", config), whole_run):
        output, _ = run.communicate(timeout=500)
        assert run.returncode == 0, output

    assert [row["step"] for row in metrics_rows(whole) if row["kind"] == "train"] == [1, 2, 3, 4, 5]
    assert [row["step"] for row in metrics_rows(whole) if row["kind"] == "evaluation"] == [0, 2, 4, 5]
    assert metrics_rows(killed) == metrics_rows(whole)
    for name in ("policy/ema.safetensors", "policy/ae.safetensors", "exp_avg.safetensors", "exp_avg_sq.safetensors"):
        assert (newest(killed) / name).read_bytes() == (newest(whole) / name).read_bytes(), name
    one, other = read_state(newest(killed)), read_state(newest(whole))
    assert (one.step, one.updates, one.reference_hash) == (other.step, other.updates, other.reference_hash)
    assert (one.step, one.updates) == (STEPS, 2 * STEPS)
    assert (newest(whole) / "exp_avg.safetensors").read_bytes() != (newest(whole) / "exp_avg_sq.safetensors").read_bytes()
    assert files(killed / "samples") == files(whole / "samples")


def config_of(start: Path, run_dir: Path) -> Path:
    changes = {
        "steps": STEPS,
        "algorithm.ppo_epochs": 2,
        "evaluation": {
            "every": 2,
            "num_points": 4,
            "prompts": {"kind": "file", "path": str(start / "held_out.jsonl")},
            "reward": {"kind": "geneval", "detector": "shapes", "placement": {"num_cpus": 0.2}},
        },
    }
    return write_config(run_dir.with_suffix(".yaml"), run_values(start, run_dir, changes))


def kill(run: "subprocess.Popen[str]", how: Callable[[int, int], None], *, when: Callable[[], bool]) -> None:
    """Kill a run at an event, and see that its Ray ends too."""
    wait_until(lambda: when() or run.poll() is not None, "the moment to kill")
    assert run.poll() is None, run.communicate()[0]
    started = ray_processes(run.pid)
    for name in ("gcs_server", "raylet", "LearnerActor", "ReasonerActor", "DenoiserActor", "RewardActor"):
        assert any(name in command for command in started.values()), started
    how(run.pid, signal.SIGKILL)
    assert run.wait(timeout=60) == -signal.SIGKILL
    wait_until(lambda: not any(map(alive, started)), "the end of the killed run's Ray", timeout=60)


def last_step(run_dir: Path) -> int:
    return max((row["step"] for row in metrics_rows(run_dir) if row["kind"] == "train"), default=0)


def newest(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / f"step-{STEPS:06d}"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
