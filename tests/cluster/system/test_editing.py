"""Prompts with and without pictures through the same loop: two training steps, guided evaluations, and one from the run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.cluster.system.runs import CPUS, Command, metrics_rows, run_values, sample_rows, save_start, write_config
from unigrpo.models.bagel.config import VisionConfig
from unigrpo.shapes.prompts import shapes_prompts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

VISION = VisionConfig(
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=2,
    patch_size=4,
    image_size=24,
    num_channels=3,
    layer_norm_eps=1e-6,
    max_patches_per_side=6,
)
GUIDANCE = {"text_scale": 3.0, "image_scale": 1.5, "renorm": "text_channel"}


def save_prompts(folder: Path) -> Path:
    """Two prompts of text and two edits."""
    rng = np.random.default_rng(0)
    lines: list[dict[str, Any]] = [dict(prompt.metadata) for prompt in shapes_prompts("train")[:4]]
    for index in (1, 3):
        lines[index]["picture"] = f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    path = folder / "edits.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_edits_are_trained_on_and_evaluated_with_guidance(command: Command, tmp_path: Path) -> None:
    start, run = save_start(tmp_path, VISION), tmp_path / "run"
    prompts = {"kind": "file", "path": str(save_prompts(tmp_path))}
    evaluation = {"every": 2, "num_points": 4, "prompts": prompts, "images_per_prompt": 2, "guidance": GUIDANCE}
    changes = {
        "prompts": prompts,
        "evaluation": evaluation,
        "learner": {"num_ranks": 2, "zero_stage": 3, "activation_checkpointing": True, **CPUS},
    }
    trained = command("train", write_config(tmp_path / "run.yaml", run_values(start, run, changes)))
    output, _ = trained.communicate(timeout=500)
    assert trained.returncode == 0, output
    assert "denoiser: cpu, float32, attention by scaled_dot_product_attention" in " ".join(output.split())

    rows = metrics_rows(run)
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("evaluation", 0),
        ("train", 1),
        ("train", 2),
        ("evaluation", 2),
    ]
    for row in rows[1:3]:
        assert {row[name] for name in row if name.startswith("on_policy/")} == {0.0}
        assert 0 <= row["mismatch/text"] < 1e-4
        assert 0 <= row["mismatch/flow"] < 1e-4
        assert row["groups/dropped"] == 0
        assert row["grad_norm/text"] > 0
    asked = {row["prompt"] for step in (1, 2) for row in sample_rows(run, step)}
    assert asked == {prompt.text for prompt in shapes_prompts("train")[:4]}
    start_weights, end_weights = load_file(start / "model" / "ema.safetensors"), load_file(policy_of(run))
    same = {name: torch.equal(value, end_weights[name]) for name, value in start_weights.items()}
    assert all(same[name] for name in same if name.startswith(("vit_model.", "connector.")))
    assert not any(same[name] for name in same if name.endswith("q_proj.weight") and name.startswith("language_model."))

    pictures = {}
    overrides = {"guided": "evaluation.num_points=4", "plain": "evaluation.guidance=null"}
    evaluations = {name: command("evaluate", run, "--out", tmp_path / name, asked) for name, asked in overrides.items()}
    for name, evaluated in evaluations.items():
        output, _ = evaluated.communicate(timeout=500)
        assert evaluated.returncode == 0, output
        pictures[name] = [file.read_bytes() for file in sorted((tmp_path / name).glob("*/samples/*.png"))]
        assert "Traceback" not in output
    assert len(pictures["guided"]) == len(pictures["plain"]) == 4 * 2
    assert all(guided != plain for guided, plain in zip(pictures["guided"], pictures["plain"], strict=True))
    assert json.loads((tmp_path / "guided" / "00001" / "metadata.jsonl").read_text()).get("picture") is None


def policy_of(run: Path) -> Path:
    [checkpoint] = (run / "checkpoints").glob("step-000002")
    return checkpoint / "policy" / "ema.safetensors"
