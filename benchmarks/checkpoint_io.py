"""Reading and writing a checkpoint of about 1 GB against safetensors' own load_file and save_file of the same tensors.

Reading: from the page cache on both sides, into memory of its own on both sides. (load_file alone maps the file and reads
nothing, so every tensor is copied out of the map.) Writing: until the disk has it on both sides; what is exported is read from
the page cache first, what save_file writes is in memory.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.harness import Figure, Timings, report, take_turns
from benchmarks.workload import MIDDLE, save_random
from cluster.export import export_policy
from unigrpo.models.bagel.checkpoint import load_model, save_model
from unigrpo.models.bagel.config import WEIGHTS_FILE, BagelConfig

HALF = 0.5
TURNS = 5


def measure() -> Iterator[Figure]:
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        folder = save_random(Path(temporary) / "model", MIDDLE)
        file = folder / WEIGHTS_FILE
        size = file.stat().st_size
        yield from _reading(folder, size)
        yield from _writing(folder, Path(temporary), size)


def _reading(folder: Path, size: int) -> Iterator[Figure]:
    times = take_turns(
        {
            "load_model": lambda: load_model(folder),
            "load_file": partial(load_and_copy, folder / WEIGHTS_FILE),
        }
    )
    yield _figure("load_model over safetensors' load_file and a copy, warm page cache", times, "load_file", "load_model", size)


def _writing(folder: Path, scratch: Path, size: int) -> Iterator[Figure]:
    loaded = load_model(folder)
    weights = loaded.model.state_dict()
    plain = scratch / "plain.safetensors"
    times = take_turns(
        {
            "save_model": partial(
                save_model, scratch / "saved", weights, loaded.autoencoder, loaded.config, tokenizer_path=None
            ),
            "save_file": partial(save_and_flush, weights, plain),
            "export_policy": partial(export_again, folder, scratch / "exported", loaded.config),
        },
        TURNS,
    )
    yield _figure("save_model over safetensors' save_file, both with fsync", times, "save_file", "save_model", size)
    yield _figure("unigrpo export, reading included, over save_file alone", times, "save_file", "export_policy", size)


def load_and_copy(file: Path) -> dict[str, Tensor]:
    """All tensors of a file, in memory of their own."""
    return {name: tensor.clone() for name, tensor in load_file(file).items()}


def save_and_flush(weights: Mapping[str, Tensor], file: Path) -> None:
    """save_file, and until the disk has it."""
    save_file(dict(weights), file)
    with file.open("rb") as written:
        os.fsync(written.fileno())


def export_again(folder: Path, to: Path, config: BagelConfig) -> None:
    """export_policy in float32, in place of what was exported before."""
    shutil.rmtree(to, ignore_errors=True)
    export_policy(folder, to, config, torch.float32)


def _figure(name: str, times: Timings, plain: str, ours: str, size: int) -> Figure:
    rate = size / times.median(ours) / 1e9
    return Figure(
        name=f"{name} (float32)",
        value=times.ratio(plain, ours),
        unit="x",
        at_least=HALF,
        note=f"{size / 1e9:.3g} GB at {rate:.3g} GB/s; {times.note(plain, ours)}",
    )


if __name__ == "__main__":
    report("checkpoint_io", measure())
