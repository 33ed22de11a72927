"""A mid-size model in the released layout, in bfloat16 from end to end: trained, taken out, and evaluated as the paper does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cluster.system.runs import CPUS, Command, metrics_rows, run_values, write_config
from tests.unigrpo.released_tokenizer import save_released_tokenizer, with_its_tokens
from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.checkpoint import save_model
from unigrpo.models.bagel.config import AutoEncoderConfig, BagelConfig
from unigrpo.models.bagel.model import Bagel

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SIZES = BagelConfig(
    vocab_size=4096,
    hidden_size=512,
    intermediate_size=1408,
    num_layers=6,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    rope_theta=1e6,
    rms_norm_eps=1e-6,
    max_position_embeddings=1024,
    max_latent_size=16,
    vae=AutoEncoderConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1),
    bos_token_id=0,
    eos_token_id=1,
    start_of_image=2,
    end_of_image=3,
)
CLIP = 1e-3
"""Of the flow ratio at this size: what rounding may move it by is held against it."""


def save_mid_size(folder: Path) -> Path:
    """Random weights and a byte-level tokenizer; prompts in plain English."""
    torch.manual_seed(0)
    config = with_its_tokens(SIZES)
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    save_released_tokenizer(tokenizer)
    model = Bagel(config)
    save_model(
        folder / "model", model.state_dict(), AutoEncoder(config.vae), config, tokenizer_path=tokenizer / "tokenizer.json"
    )
    lines: list[dict[str, Any]] = [
        {"prompt": text, "tag": "free", "include": []} for text in ("a red cube", "two dogs in the snow, at night")
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def values(start: Path, run: Path) -> dict[str, Any]:
    prompts = {"kind": "file", "path": str(start / "prompts.jsonl")}
    guidance = {"text_scale": 4.0, "interval": [0.4, 1.0]}
    return run_values(
        start,
        run,
        {
            "steps": 2,
            "model": {"path": str(start / "model")},
            "rollout": {"prompts_per_step": 2, "group_size": 2, "max_thought_tokens": 16},
            "sampler": {"num_points": 6, "height": 256, "width": 256},
            "algorithm.flow_clip": CLIP,
            "algorithm.ppo_epochs": 2,
            "reasoner": {"max_num_seqs": 4, "max_model_len": 512, "kv_cache_bytes": 1 << 26, "dtype": "bfloat16", **CPUS},
            "denoiser.dtype": "bfloat16",
            "learner": {
                "dtype": "bfloat16",
                "num_ranks": 2,
                "zero_stage": 3,
                "activation_checkpointing": True,
                "text_learning_rate": 1e-6,
                "generation_learning_rate": 3e-5,
                **CPUS,
            },
            "evaluation": {"num_points": 50, "images_per_prompt": 1, "guidance": guidance, "prompts": prompts},
            "cluster": {"start_timeout": 600, "call_timeout": 900},
        },
    )


def run(command: Command, *arguments: str | Path) -> str:
    process = command(*arguments)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


def test_steps_in_bfloat16_are_on_policy_and_the_policy_is_taken_out_and_scored(command: Command, tmp_path: Path) -> None:
    start, folder = save_mid_size(tmp_path), tmp_path / "run"
    config = write_config(tmp_path / "run.yaml", values(start, folder))
    assert "bfloat16, ZeRO-3, attention by scaled_dot_product_attention" in run(command, "train", config)
    rows = metrics_rows(folder)
    assert [(row["kind"], row["step"]) for row in rows] == [("train", 1), ("train", 2)]
    for row in rows:
        assert row["on_policy/text"] == row["on_policy/flow"] == 0.0
        assert row["mismatch/text_mean"] < 0.05
        assert row["mismatch/flow"] < CLIP

    out = tmp_path / "out"
    said = run(command, "export", folder, "--to", out)
    assert "bfloat16" in said
    scored = run(
        command, "evaluate", out, "--config", config, "--json", tmp_path / "scores.json", "--out", tmp_path / "pictures"
    )
    assert "2 pictures of 2 prompts" in scored
    assert json.loads((tmp_path / "scores.json").read_text())["pictures"] == 2
