"""A run's folder, held by one driver at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.load import ConfigError, dump
from configs.schema import SftConfig, TrainConfig
from learner.checkpoint import check_resumable


@contextmanager
def run_folder(config: TrainConfig | SftConfig) -> Iterator[Path]:
    """Make `config.run_dir`, write the resolved config there, and keep other drivers out for as long as this one lives.

    The lock goes with the process, however it ends. Raises ConfigError when another run holds the folder, or a run found there
    cannot be resumed with this config.
    """
    config.run_dir.mkdir(parents=True, exist_ok=True)
    held = os.open(config.run_dir, os.O_RDONLY)
    try:
        _lock(held, config.run_dir)
        check_resumable(config)
        (config.run_dir / "config.yaml").write_text(dump(config), encoding="utf-8")
        yield config.run_dir
    finally:
        os.close(held)


def _lock(held: int, run_dir: Path) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"another run is using run_dir {run_dir}; end it, or give another run_dir") from None
