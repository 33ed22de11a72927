"""A small model of the shapes world with random weights, small runs over it, and the command that runs them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from cluster.metrics import WALL_CLOCK, read_rows
from configs.load import parse
from configs.schema import TrainConfig
from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.checkpoint import save_model
from unigrpo.models.bagel.config import BagelConfig, VisionConfig
from unigrpo.models.bagel.model import Bagel
from unigrpo.prompts import write_prompt_file
from unigrpo.shapes.autoencoder_training import SMALL_AUTOENCODER
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.shapes.tokenizer import SPECIAL_TOKENS, save_tokenizer, vocabulary

Changes = Mapping[str, Any]
"""Dotted config keys and what they are set to."""
CPUS = {"placement": {"num_cpus": 0.2}}
NUM_PROMPTS = 6


def save_start(folder: Path, vision: VisionConfig | None = None) -> Path:
    """A checkpoint folder `model`, with a vision tower of that size or none, and files `prompts.jsonl` and `held_out.jsonl`."""
    torch.manual_seed(0)
    bos, eos, start_of_image, end_of_image = (vocabulary()[token] for token in SPECIAL_TOKENS)
    config = BagelConfig(
        vocab_size=len(vocabulary()),
        hidden_size=64,
        intermediate_size=96,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=32,
        rope_theta=1e4,
        rms_norm_eps=1e-6,
        max_position_embeddings=64,
        max_latent_size=3,
        vae=SMALL_AUTOENCODER,
        vision=vision,
        bos_token_id=bos,
        eos_token_id=eos,
        start_of_image=start_of_image,
        end_of_image=end_of_image,
    )
    save_tokenizer(folder)
    save_model(
        folder / "model",
        Bagel(config).state_dict(),
        AutoEncoder(config.vae),
        config,
        tokenizer_path=folder / "tokenizer.json",
    )
    write_prompt_file(folder / "prompts.jsonl", shapes_prompts("train")[:NUM_PROMPTS])
    write_prompt_file(folder / "held_out.jsonl", shapes_prompts("held_out")[:NUM_PROMPTS])
    return folder


def run_values(start: Path, run_dir: Path, changes: Changes | None = None) -> dict[str, Any]:
    """Plain values of a run: one worker of each kind, two prompts a step, rewards from the pictures' bytes."""
    values: dict[str, Any] = {
        "seed": 3,
        "steps": 2,
        "run_dir": str(run_dir),
        "model": {"path": str(start / "model"), "system_prompt": ""},
        "prompts": {"kind": "file", "path": str(start / "prompts.jsonl")},
        "rollout": {"prompts_per_step": 2, "group_size": 4, "max_thought_tokens": 12},
        "sampler": {"num_points": 6, "height": 24, "width": 24},
        "algorithm": {
            "kind": "unigrpo",
            "ppo_epochs": 1,
            "flow_clip": 1e-4,
            "regulariser": {"kind": "velocity_mse", "weight": 1e-3},
            "window": {"range": [0, 4], "size": 2},
        },
        "reasoner": {"max_num_seqs": 8, "max_model_len": 48, "kv_cache_bytes": 1 << 20, **CPUS},
        "denoiser": CPUS,
        "reward": {"kind": "random", **CPUS},
        "learner": {"text_learning_rate": 1e-3, "generation_learning_rate": 1e-3, "eps": 1e-6, **CPUS},
        "cluster": {"start_timeout": 400, "call_timeout": 400},
        "checkpoint": {"every": 2},
        "logging": {"samples_every": 1, "samples": 8, "gradients_every": 2},
    }
    for key, value in (changes or {}).items():
        *sections, leaf = key.split(".")
        section = values
        for name in sections:
            section[name] = dict(section.get(name, {}))
            section = section[name]
        section[leaf] = value
    return values


def run_config(start: Path, run_dir: Path, changes: Changes | None = None) -> TrainConfig:
    """The config of `run_values`."""
    config = parse(run_values(start, run_dir, changes), source="test")
    assert isinstance(config, TrainConfig)
    return config


def write_config(path: Path, values: dict[str, Any]) -> Path:
    """Write plain values as a config file."""
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


Command = Callable[..., "subprocess.Popen[str]"]
"""`unigrpo` with these arguments, and keywords for its environment."""


def unigrpo(*arguments: str | Path, **environment: str) -> "subprocess.Popen[str]":
    """Start `unigrpo ARGUMENTS` in a process group of its own; both its outputs come together."""
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )


def metrics_rows(run_dir: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl of either kind without the wall clock."""
    return [
        {name: value for name, value in row.items() if not name.startswith(WALL_CLOCK)}
        for row in read_rows(run_dir / "metrics.jsonl")
    ]


def sample_rows(run_dir: Path, step: int) -> list[dict[str, Any]]:
    """What the gallery of a step says of its pictures."""
    lines = (run_dir / "samples" / f"step-{step:06d}" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def ray_processes(pid: int) -> dict[int, str]:
    """Process ids and command lines of the Ray that a driver started, but for Ray's two agents, which outlive it a minute."""
    children = [int(child) for child in _proc(f"{pid}/task/{pid}/children").split()]
    below = {child: _proc(f"{child}/cmdline").replace("\0", " ").strip() for child in children}
    for child in children:
        below |= ray_processes(child)
    return {child: command for child, command in below.items() if not command.endswith("Agent")}


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be collected does not."""
    status = _proc(f"{pid}/status")
    return bool(status) and "\nState:\tZ" not in status


def _proc(name: str) -> str:
    """A file of /proc, empty once its process is gone."""
    try:
        return Path("/proc", name).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_until(condition: Callable[[], bool], what: str, *, timeout: float = 400) -> None:
    """Poll until `condition` holds; raises TimeoutError naming `what`."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(0.005)
