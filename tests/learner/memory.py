"""Anonymous memory of this process, and a checkpoint large enough to see what a learner does with it."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from tests.learner.tiny import save_tiny_model
from tests.unigrpo.models.released import SEEING
from unigrpo.models.bagel.checkpoint import load_model, save_model
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.model import Bagel

SAMPLED_EVERY = 0.002
"""Seconds."""


def anonymous_bytes() -> int:
    """RssAnon: pages that are this process's own, and not a file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [kilobytes] = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
    return kilobytes << 10


class Rise:
    """How far anonymous memory rises, within a `with` block, above where it was before."""

    peak = 0
    """Bytes at the highest sample."""
    kept = 0
    """Bytes at the end."""

    def __enter__(self) -> Self:
        self._before, self._done = anonymous_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        self.kept = anonymous_bytes() - self._before

    def _sample(self) -> None:
        while not self._done.wait(SAMPLED_EVERY):
            self.peak = max(self.peak, anonymous_bytes() - self._before)


def save_large_model(folder: Path) -> BagelConfig:
    """The tiny model's layout at a gigabyte of random float32, with a small vision tower."""
    tiny = load_model(save_tiny_model(folder / "tiny"))
    config = replace(
        tiny.config,
        vocab_size=16384,
        hidden_size=1024,
        intermediate_size=4096,
        num_layers=8,
        num_heads=16,
        num_kv_heads=4,
        head_dim=64,
        vision=SEEING.vision,
    )
    save_model(folder / "model", Drawn(config), tiny.autoencoder, config, tokenizer_path=None)
    return config


class Drawn(Mapping[str, Tensor]):
    """Random weights, drawn as they are asked for."""

    def __init__(self, config: BagelConfig) -> None:
        with torch.device("meta"):
            self._shapes = {name: value.shape for name, value in Bagel(config).state_dict().items()}
        self._generator = torch.Generator().manual_seed(0)

    def __getitem__(self, name: str) -> Tensor:
        return torch.empty(self._shapes[name]).uniform_(-0.05, 0.05, generator=self._generator)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)
