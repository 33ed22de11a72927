"""Tiny models with random weights, one of which sees pictures, and their weights as a learner would publish them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.load import parse
from configs.schema import TrainConfig
from unigrpo.buckets import Bucket, pack
from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.checkpoint import save_model
from unigrpo.models.bagel.config import AutoEncoderConfig, BagelConfig, VisionConfig
from unigrpo.models.bagel.model import Bagel
from unigrpo.types import Given

MODEL = BagelConfig(
    vocab_size=100,
    hidden_size=128,
    intermediate_size=192,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    rope_theta=1e6,
    rms_norm_eps=1e-6,
    max_position_embeddings=512,
    max_latent_size=8,
    bos_token_id=96,
    eos_token_id=97,
    start_of_image=98,
    end_of_image=99,
    vae=AutoEncoderConfig(ch=32, ch_mult=(1, 1), num_res_blocks=1, z_channels=4),
)
"""head_dim 32 is the smallest that vLLM takes on CPUs; 100 ids are not a multiple of the 64 it pads a vocabulary to."""
SEEING = replace(
    MODEL,
    vision=VisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=2,
        patch_size=4,
        image_size=32,
        num_channels=3,
        layer_norm_eps=1e-6,
        max_patches_per_side=8,
    ),
)
"""The same with a vision tower: a picture of 16 x 24 pixels is 4 x 6 latent tokens and, at 20 x 32, 5 x 8 patches."""


def random_model(seed: int, config: BagelConfig = MODEL) -> Bagel:
    """Random in every parameter, norms and biases included, so that none can be forgotten unseen."""
    generator = torch.Generator().manual_seed(seed)
    model = Bagel(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            drawn = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.2 * drawn if "norm" in name else 0.15 * drawn)
    return model.requires_grad_(False)


def save_checkpoint(folder: Path, config: BagelConfig = MODEL) -> Path:
    """A checkpoint folder of random_model(0, config) and a random autoencoder."""
    torch.manual_seed(0)
    save_model(folder, random_model(0, config).state_dict(), AutoEncoder(config.vae), config, tokenizer_path=None)
    return folder


def given_P(system_ids: Sequence[int], prompts: Iterable[Sequence[int]]) -> list[list[Given]]:
    """A system prompt, if any, and a text for each prompt."""
    head = [system_ids] if system_ids else []
    return [[Given(token_ids=tuple(ids)) for ids in (*head, prompt)] for prompt in prompts]


def buckets_of(tensors: Bagel | Iterable[tuple[str, Tensor]], version: int) -> list[Bucket]:
    """Several small buckets, read-only as they come out of Ray's object store."""
    named = tensors.named_parameters() if isinstance(tensors, Bagel) else tensors
    buckets = pack(named, version=version, bucket_bytes=1 << 18)
    for bucket in buckets:
        bucket.payload.setflags(write=False)
    return buckets


def train_config(folder: Path, **sections: Any) -> TrainConfig:
    """A config for the tiny model: 16 x 24 pixels are 4 x 6 latent tokens; thoughts of at most 12 tokens."""
    values: dict[str, Any] = {
        "steps": 1,
        "run_dir": "unused",
        "model": {"path": str(folder)},
        "prompts": {"kind": "shapes"},
        "rollout": {"prompts_per_step": 4, "group_size": 2, "max_thought_tokens": 12},
        "sampler": {"num_points": 6, "height": 16, "width": 24},
        "algorithm": {"kind": "unigrpo", "window": {"range": [0, 3], "size": 2}},
        "reasoner": {"max_num_seqs": 16, "max_model_len": 96, "kv_cache_bytes": 16 << 20},
    }
    config = parse(values | sections, source="test")
    assert isinstance(config, TrainConfig)
    return config
