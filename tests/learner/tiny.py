"""A real Bagel of a few thousand parameters, a run over it, and samples as its own reasoner and denoiser would make them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from configs.load import parse
from configs.schema import SftConfig, TrainConfig
from learner.batch import MiniBatch
from learner.learner import Learner
from learner.optimizer import Rank
from unigrpo.algo.flow import time_grid, window_start
from unigrpo.denoise import denoise, seeded_noise, trajectories
from unigrpo.layout import close_thought, segments_to_ids
from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.checkpoint import load_model, save_model
from unigrpo.models.bagel.config import AutoEncoderConfig, BagelConfig
from unigrpo.models.bagel.model import Bagel
from unigrpo.types import Given, Sample, Thought

VOCAB = 40
PROMPT = Given(token_ids=(5, 6, 7))


def save_tiny_model(folder: Path) -> Path:
    """A checkpoint folder with random weights: 2 layers, 2x2 latent tokens of 16 channels for an 8x8 picture."""
    torch.manual_seed(0)
    config = BagelConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        rope_theta=1e4,
        rms_norm_eps=1e-6,
        max_position_embeddings=64,
        max_latent_size=4,
        time_features=32,
        bos_token_id=36,
        eos_token_id=37,
        start_of_image=38,
        end_of_image=39,
        vae=AutoEncoderConfig(ch=32, ch_mult=(1, 1), num_res_blocks=1, z_channels=4),
    )
    save_model(folder, Bagel(config).state_dict(), AutoEncoder(config.vae), config, tokenizer_path=None)
    return folder


def make_config(model: Path, run_dir: Path, **changes: Any) -> TrainConfig:
    """A training config over the tiny model; `changes` are dotted keys, such as learner__zero_stage=3."""
    trained = changes.get("learner__trains", ("text", "generation"))
    flow = {"flow_clip": 1e-4, "regulariser": {"kind": "velocity_mse", "weight": 1e-3}} if "generation" in trained else {}
    rates = {f"{group}_learning_rate": 1e-3 for group in ("text", "generation") if group in trained}
    values: dict[str, Any] = {
        "seed": 3,
        "steps": 4,
        "run_dir": run_dir,
        "model": {"path": model, "system_prompt": ""},
        "prompts": {"kind": "shapes"},
        "reward": {"kind": "random"},
        "rollout": {"prompts_per_step": 2, "group_size": 4, "max_thought_tokens": 8},
        "sampler": {"num_points": 6, "window_range": [0, 4], "window_size": 2, "height": 8, "width": 8},
        "algorithm": {"ppo_epochs": 1, **flow},
        "learner": {**rates, "eps": 1e-6, "text_micro_batch": 3, "flow_micro_batch": 3},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            values.setdefault(section, {})[name] = value
        else:
            values[section] = value
    config = parse(values, source="test")
    assert isinstance(config, TrainConfig)
    return config


def make_learner(config: TrainConfig | SftConfig, rank: Rank) -> Learner:
    return Learner(config, rank.rank, rank.world_size, rank.master_addr, rank.master_port)


def sample_step(
    config: TrainConfig, step: int, advantages: Sequence[float], lengths: Sequence[int] = (2, 3, 4, 5)
) -> list[Sample]:
    """One sample an advantage by the start checkpoint's weights; thoughts take turns in length, the second is truncated."""
    assert config.model.path is not None
    model = load_model(config.model.path).model
    generator = torch.Generator().manual_seed(100 + step)
    return [
        _sample(model, config, step, index, advantage, lengths[index % len(lengths)], generator)
        for index, advantage in enumerate(advantages)
    ]


@torch.no_grad()
def _sample(
    model: Bagel, config: TrainConfig, step: int, index: int, advantage: float, length: int, generator: torch.Generator
) -> Sample:
    tokens, truncated = model.config, index == 1
    ids = tuple(torch.randint(0, 30, (length,), generator=generator).tolist()) + (tokens.eos_token_id,) * (not truncated)
    prefix = [*segments_to_ids([PROMPT.token_ids], tokens), tokens.bos_token_id]
    hidden, _ = model.prefill(torch.tensor([[*prefix, *ids[:-1]]]), torch.tensor([len(prefix) + len(ids) - 1]))
    logp = model.logits(hidden[0, len(prefix) - 1 :]).log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
    thought = Thought(token_ids=ids, behavior_logp=tuple(logp.tolist()), truncated=truncated, policy_version=step)

    context_ids = segments_to_ids([PROMPT.token_ids, close_thought(thought, tokens.eos_token_id)], tokens)
    _, context = model.prefill(torch.tensor([context_ids]), torch.tensor([len(context_ids)]))
    sampler, grid_hw = config.sampler, tokens.grid_hw(config.sampler.height, config.sampler.width)
    shape_LC = (grid_hw[0] * grid_hw[1], tokens.latent_channels)
    start = window_start(config.seed, step, sampler.window_range, sampler.window_size)
    denoised = denoise(
        lambda x_SLC, t: model.velocity(x_SLC, torch.tensor([t]), context, grid_hw),
        seeded_noise([index], "start", shape_LC),
        time_grid(sampler.num_points, sampler.shift),
        range(start, start + sampler.window_size),
        sampler.noise_level,
        lambda k: seeded_noise([index], k, shape_LC),
    )
    [trajectory] = trajectories(denoised, grid_hw=grid_hw, cfg_scale=1.0, policy_version=step)
    return Sample(spans=(PROMPT, thought, trajectory), advantage=advantage)


def whole(samples: Sequence[Sample]) -> list[MiniBatch[Sample]]:
    """All samples as one mini-batch on one rank."""
    return [MiniBatch(samples=tuple(samples), global_count=len(samples))]
