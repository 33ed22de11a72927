"""`unigrpo sft` from a folder in the released layout on a user's data, and from nothing on the shapes world."""

from pathlib import Path
from typing import Any

import pytest
import torch

from learner.checkpoint import newest_checkpoint, read_state
from tests.cluster.seeing import SEEING, save_seeing_model, write_examples
from tests.cluster.system.runs import CPUS, Command, metrics_rows, write_config
from unigrpo.models.bagel.checkpoint import load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def values_of(run_dir: Path, **changes: Any) -> dict[str, Any]:
    """Two steps of four examples on one rank."""
    learner = {"text_learning_rate": 1e-3, "generation_learning_rate": 1e-3, "eps": 1e-6, "flow_micro_batch": 2, **CPUS}
    run = {"task": "sft", "seed": 3, "steps": 2, "run_dir": str(run_dir), "batch_size": 4, "noise_draws": 2}
    cluster = {"start_timeout": 400, "call_timeout": 400}
    return run | {"learner": learner, "cluster": cluster, "checkpoint": {"every": 1}} | changes


def fine_tune(command: Command, values: dict[str, Any], *overrides: str, status: int = 0) -> str:
    """Run to its end; its output."""
    run = command("sft", write_config(Path(values["run_dir"]).with_suffix(".yaml"), values), *overrides)
    output, _ = run.communicate(timeout=500)
    assert run.returncode == status, output
    return str(output)


def newest(run_dir: Path) -> Path:
    found = newest_checkpoint(run_dir / "checkpoints")
    assert found is not None
    return found


def test_a_users_examples_teach_a_released_folder_and_a_resumed_run_is_the_same(command: Command, tmp_path: Path) -> None:
    start, data = save_seeing_model(tmp_path / "model"), write_examples(tmp_path)
    source = {"start": {"kind": "checkpoint", "path": str(start)}, "data": {"kind": "file", "path": str(data)}}
    whole, parted = (values_of(tmp_path / name, **source) for name in ("whole", "parted"))
    fine_tune(command, whole)
    fine_tune(command, parted, "steps=1")
    fine_tune(command, parted)

    one, other = newest(tmp_path / "whole"), newest(tmp_path / "parted")
    assert (read_state(one).step, read_state(one).updates) == (read_state(other).step, read_state(other).updates) == (2, 2)
    for name in ("policy/ema.safetensors", "exp_avg.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert metrics_rows(tmp_path / "whole") == metrics_rows(tmp_path / "parted")
    assert all(row["loss/text"] > 0 and row["loss/flow"] > 0 for row in metrics_rows(tmp_path / "whole"))

    assert not (tmp_path / "whole" / "start").exists()
    before, after = load_model(start), load_model(one / "policy")
    assert after.config == SEEING
    moved = {
        name for name, value in after.model.state_dict().items() if not torch.equal(value, before.model.state_dict()[name])
    }
    assert {"llm2vae.weight", "vae2llm.weight", "language_model.lm_head.weight"} <= moved
    assert not any("pos_embed" in name for name in moved)
    assert (one / "policy" / "merges.txt").read_bytes() == (start / "merges.txt").read_bytes()

    (tmp_path / "5.png").write_bytes((tmp_path / "5.png").read_bytes()[:120])
    message = fine_tune(command, parted, "steps=4", status=2)
    assert f"unigrpo: {data}:6: image: {tmp_path}/5.png: " in message


def test_a_model_of_the_shapes_world_is_made_from_nothing(command: Command, tmp_path: Path) -> None:
    architecture = {"hidden_size": 32, "intermediate_size": 48, "num_layers": 2, "num_heads": 2, "num_key_value_heads": 1}
    start = {"kind": "new", "architecture": architecture, "autoencoder": {"steps": 3, "batch_size": 2}}
    values = values_of(tmp_path / "run", start=start, data={"kind": "shapes"}, dropout={"text": 0.3})
    output = fine_tune(command, values)
    assert f"score one with `unigrpo evaluate {tmp_path}/run --config FILE`" in output
    assert [row["step"] for row in metrics_rows(tmp_path / "run")] == [1, 2]
    assert load_model(newest(tmp_path / "run") / "policy").config == load_model(tmp_path / "run" / "start").config
