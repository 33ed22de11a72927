"""One data-parallel rank for the tests of a process (DeepSpeed joins its process group once), and small checkpoints."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learner.optimizer import Rank
from tests.learner.tiny import save_tiny_model
from tests.unigrpo.models.released import SEEING
from unigrpo.models.bagel.checkpoint import load_model, save_model
from unigrpo.models.bagel.model import Bagel


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def rank() -> Rank:
    return Rank(rank=0, world_size=1, master_addr="127.0.0.1", master_port=free_port())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "start")


@pytest.fixture(scope="module")
def seeing(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a vision tower, position tables and a tokenizer file."""
    folder = tmp_path_factory.mktemp("seeing") / "start"
    loaded = load_model(model)
    torch.manual_seed(1)
    config = replace(loaded.config, vision=SEEING.vision)
    save_model(folder, Bagel(config).state_dict(), loaded.autoencoder, config, tokenizer_path=None)
    (folder / "vocab.json").write_text("{}")
    return folder
