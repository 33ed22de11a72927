"""A study that is killed goes on where it was: what was finished is left alone, and the run that was cut off resumes."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.metrics import read_rows
from tests.cluster.system.runs import (
    Command,
    alive,
    metrics_rows,
    ray_processes,
    run_values,
    wait_until,
    write_config,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

RUNS = ["joint/start-seed0", "silent/start-seed0", "joint/start-seed1", "silent/start-seed1"]
"""In the order they are run."""


def save_study(start: Path, folder: Path) -> Path:
    """Two rows with two seeds for two steps: UniGRPO, and FlowGRPO that never thinks in training."""
    prompts = {"kind": "file", "path": str(start / "held_out.jsonl")}
    judge = {"kind": "geneval", "detector": "shapes", "placement": {"num_cpus": 0.2}}
    shared = {"checkpoint": {"every": 1}, "evaluation": {"num_points": 4, "reward": judge}}
    values = run_values(start, folder / "unused", shared)
    write_config(folder / "joint.yaml", values)
    silent = {"kind": "flow_grpo"} | {key: value for key, value in values["algorithm"].items() if key != "kind"}
    learner = {key: value for key, value in values["learner"].items() if key != "text_learning_rate"}
    rollout = values["rollout"] | {"thinks": False}
    write_config(folder / "silent.yaml", values | {"algorithm": silent, "learner": learner, "rollout": rollout})
    study: dict[str, Any] = {
        "task": "study",
        "name": "small",
        "question": "Does it go on?",
        "run_dir": str(folder / "study"),
        "steps": 2,
        "seeds": [0, 1],
        "starts": {"start": {"kind": "checkpoint", "path": str(start / "model")}},
        "modes": {"think": ["evaluation.thinks=true"], "no_think": ["evaluation.thinks=false"]},
        "rows": {"joint": {"config": "joint.yaml"}, "silent": {"config": "silent.yaml"}},
        "prompts": prompts,
        "images_per_prompt": 1,
        "validation": {"every": 1, "prompts": prompts},
        "lanes": 1,
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path


def test_a_killed_study_runs_nothing_twice(command: Command, start: Path, tmp_path: Path) -> None:
    study, folder = save_study(start, tmp_path), tmp_path / "study"
    results = [folder / run / "result.json" for run in RUNS]
    run = command("reproduce", study)
    cut = folder / RUNS[1]
    wait_until(lambda: (cut / "checkpoints" / "step-000001").exists() or run.poll() is not None, "a run to cut off")
    assert run.poll() is None, run.communicate()[0]
    started = ray_processes(run.pid)
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait(timeout=60) == -signal.SIGKILL
    wait_until(lambda: not any(map(alive, started)), "the end of the killed study's Ray", timeout=60)
    assert [path.exists() for path in results] == [True, False, False, False]
    finished, first_step = results[0].read_bytes(), training_rows(cut)[0]

    again = command("reproduce", study)
    output, _ = again.communicate(timeout=900)
    assert again.returncode == 0, output
    assert "small: 1 of 4 runs are finished, 3 to go" in output
    assert results[0].read_bytes() == finished
    assert training_rows(cut)[0] == first_step  # to the clock: this step was not taken again
    for name in RUNS:
        assert [row["step"] for row in metrics_rows(folder / name) if row["kind"] == "train"] == [1, 2]
        result = json.loads((folder / name / "result.json").read_text())
        assert result["compute"]["images"] == 2 * 2 * 4
        assert [each["ended"] is None for each in result["provenance"]] == ([True, False] if name == RUNS[1] else [False])
        assert {mode: scores["pictures"] for mode, scores in result["scores"].items()} == {"think": 6, "no_think": 6}
        assert (folder / name / "policy" / "ema.safetensors").is_file()
        assert not (folder / name / "checkpoints").exists()
    assert "| joint | " in (folder / "README.md").read_text()

    last = command("reproduce", study)
    output, _ = last.communicate(timeout=300)
    assert last.returncode == 0, output
    assert "small: 4 of 4 runs are finished, 0 to go" in output


def training_rows(run_dir: Path) -> list[dict[str, Any]]:
    """With their wall clock."""
    return [row for row in read_rows(run_dir / "metrics.jsonl") if row["kind"] == "train"]
