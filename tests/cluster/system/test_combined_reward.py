"""A run judged by several verifiers at once, each with actors of its own, that learns from each one's own advantages."""

import math
from pathlib import Path

import pytest

from tests.cluster.system.runs import CPUS, Command, metrics_rows, run_values, sample_rows, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_every_verifier_is_logged_and_shown_and_counts_by_its_weight(command: Command, start: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "brightness_judge.py").write_text(
        "class Brightness:\n"
        "    bounds = (0.0, 255.0)\n"
        "    def score(self, prompts, images):\n"
        "        return [float(image.float().mean()) for image in images]\n"
    )
    parts = {
        "shapes": {"kind": "geneval", "detector": "shapes", **CPUS},
        "noise": {"kind": "random", **CPUS},
        "light": {"kind": "python", "verifier": "brightness_judge:Brightness", "folder": str(own), **CPUS},
    }
    weights = {"shapes": 1.0, "noise": 0.5, "light": 0.25}
    reward = {"kind": "combined", "parts": parts, "weights": weights, "combine": "advantages"}
    config = write_config(tmp_path / "run.yaml", run_values(start, tmp_path / "run", {"reward": reward}))
    run = command("train", config)
    output, _ = run.communicate(timeout=500)
    assert run.returncode == 0, output

    rows = metrics_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row["scores/asked"] == 3 * 2 * 4
        total = sum(weight * row[f"reward/{name}"] for name, weight in weights.items())
        assert math.isclose(row["reward/mean"], total, rel_tol=1e-6)
        assert 0 < row["reward/light"] < 255
    for sample in sample_rows(tmp_path / "run", 1):
        breakdown = sample["breakdown"]
        assert {"shapes", "shapes/graded", "shapes/unmet", "noise", "light"} <= breakdown.keys()
        assert math.isclose(sample["reward"], sum(weight * breakdown[name] for name, weight in weights.items()))
