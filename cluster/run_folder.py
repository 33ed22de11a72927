"""A run's folder, held by one driver at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.load import ConfigError, dump
from configs.schema import SftConfig, TrainConfig
from learner.checkpoint import check_resumable, checkpoints_folder, newest_checkpoint, read_state


@contextmanager
def run_folder(config: TrainConfig | SftConfig) -> Iterator[Path]:
    """Make `config.run_dir`, write the resolved config there, and keep other drivers out for as long as this one lives.

    The lock goes with the process, however it ends. Raises ConfigError when another run holds the folder, or a run found there
    cannot be resumed with this config.
    """
    with held(config.run_dir):
        check_resumable(config)
        _require_steps_left(config)
        (config.run_dir / "config.yaml").write_text(dump(config), encoding="utf-8")
        yield config.run_dir


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make a folder, and keep other drivers out of it. Raises ConfigError when another one holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY)
    try:
        _lock(opened, folder)
        yield
    finally:
        os.close(opened)


def _lock(opened: int, folder: Path) -> None:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"another run is using run_dir {folder}; end it, or give another run_dir") from None


def _require_steps_left(config: TrainConfig | SftConfig) -> None:
    newest = newest_checkpoint(checkpoints_folder(config))
    if newest is not None and (step := read_state(newest).step) > config.steps:
        raise ConfigError(
            f"{newest} is of step {step}, but steps is {config.steps}; raise steps to it or above, or give another run_dir"
        )
