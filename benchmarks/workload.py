"""What is measured on: the quickstart's config and model, and prompts and plans of its world."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.harness import ROOT
from configs.load import load, model_folder
from configs.schema import TrainConfig
from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.checkpoint import save_model
from unigrpo.models.bagel.config import AutoEncoderConfig, BagelConfig
from unigrpo.models.bagel.model import Bagel
from unigrpo.shapes.plan import draw_plan, write_trace
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.shapes.tokenizer import encode, save_tokenizer, vocabulary

BUNDLED = Path("bundled:shapes")
AUTOENCODER = AutoEncoderConfig(ch=32, ch_mult=(1, 1, 2), num_res_blocks=1, z_channels=4)
SMALL = BagelConfig(
    vocab_size=len(vocabulary()),
    hidden_size=128,
    intermediate_size=384,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    rope_theta=1e4,
    rms_norm_eps=1e-6,
    max_position_embeddings=512,
    max_latent_size=4,
    vae=AUTOENCODER,
    bos_token_id=0,
    eos_token_id=1,
    start_of_image=2,
    end_of_image=3,
)
"""The size of the bundled model, for clones that do not hold it yet. Speed does not depend on what the weights are."""
MIDDLE = replace(
    SMALL,
    vocab_size=8192,
    hidden_size=1024,
    intermediate_size=4096,
    num_layers=8,
    num_heads=16,
    num_kv_heads=4,
    head_dim=64,
    max_latent_size=32,
    vae=replace(AUTOENCODER, z_channels=16),
)
"""Large enough that matrix products decide; about 1 GB in float32."""


@contextmanager
def checkpoint() -> Iterator[Path]:
    """Folder of the bundled model, or of a random one of its size that is gone afterwards."""
    bundled = model_folder(BUNDLED)
    if bundled.is_dir():
        yield bundled
        return
    with TemporaryDirectory() as folder:
        model = save_random(Path(folder) / "model", SMALL)
        save_tokenizer(model)
        yield model


def save_random(folder: Path, config: BagelConfig) -> Path:
    """A checkpoint folder with random weights."""
    torch.manual_seed(0)
    save_model(folder, Bagel(config).state_dict(), AutoEncoder(config.vae), config, tokenizer_path=None)
    return folder


def quickstart(folder: Path, *overrides: str) -> TrainConfig:
    """The quickstart's config over the model in `folder`."""
    config = load(ROOT / "configs" / "quickstart.yaml", [f"model.path={folder}", *overrides])
    assert isinstance(config, TrainConfig)
    return config


def prompts_and_thoughts(count: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Bare ids of training prompts of all kinds, each with a right thought."""
    rng = np.random.default_rng(0)
    prompts = shapes_prompts("train")
    chosen = [prompts[index] for index in rng.permutation(len(prompts))[:count]]
    return [(encode(prompt.text), encode(write_trace(draw_plan(prompt.metadata, rng)))) for prompt in chosen]
