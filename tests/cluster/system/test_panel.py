"""A running system is inspected by two judges; a resumed run writes the panel of its restored step again, the same."""

from pathlib import Path

import pytest

from tests.cluster.system.runs import Command, metrics_rows, run_values, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_every_panel_is_measured_and_a_resumed_run_goes_on_from_its_first(
    command: Command, start: Path, tmp_path: Path
) -> None:
    held_out = {"kind": "geneval", "detector": "shapes", "placement": {"num_cpus": 0.2}}
    panel = {"every": 1, "num_prompts": 4, "images_per_prompt": 2, "reward": held_out, "thresholds": {"velocity_rms": 1.0001}}
    outputs, rows = [], []
    for steps in (2, 3):
        changes = {"steps": steps, "panel": panel, "learner.generation_learning_rate": 1e-2}
        run = command("train", write_config(tmp_path / "run.yaml", run_values(start, tmp_path / "run", changes)))
        output, _ = run.communicate(timeout=500)
        assert run.returncode == 0, output
        outputs.append(output)
        rows.append([row for row in metrics_rows(tmp_path / "run") if row["kind"] == "panel"])
    first, resumed = rows
    assert [row["step"] for row in resumed] == [0, 1, 2, 3]
    assert resumed[:3] == first
    measured = {"score", "held_out_score", "gap", "saturation", "grid_artefact", "diversity", "velocity_rms", "thought_tokens"}
    for row in resumed:
        assert measured | {"repetition"} <= row.keys()
        assert row["gap"] == row["score"] - row["held_out_score"]
        assert row["alarm/velocity_rms"] == (not 1 / 1.0001 <= row["velocity_rms"] / resumed[0]["velocity_rms"] <= 1.0001)
    assert resumed[-1]["alarm/velocity_rms"]
    assert "ALARM at step 3: velocity_rms" in outputs[1]
    assert (tmp_path / "run" / "panel.png").is_file()
    assert {path.name for path in (tmp_path / "run" / "samples").glob("panel-*")} == {f"panel-{step:06d}" for step in range(4)}
