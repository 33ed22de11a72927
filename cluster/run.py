"""One command from config to result: start the roles, run, shut down, and turn faults of the user's making into one message."""

import errno
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError

from cluster.loop import train
from cluster.preflight import prepare
from cluster.report import print_scores
from cluster.run_folder import run_folder
from cluster.system import build, evaluate_folder
from cluster.view import View
from configs.load import QUICKSTART, ConfigError, load, model_folder
from configs.schema import TrainConfig
from learner.checkpoint import newest_checkpoint


def run_training(config: TrainConfig) -> None:
    """Train until `config.steps`, resuming what is found in `run_dir`. Raises ConfigError for what the user can mend."""
    tokenizer = prepare(config, evaluates=config.evaluation.every is not None)
    with session(), run_folder(config), View(config.steps) as view:
        train(build(config, tokenizer, view), config)
        view.say(f"done: metrics, checkpoints and samples are in {config.run_dir}")


def run_evaluation(policy: Path, config_path: Path | None, overrides: Sequence[str], json_path: Path | None) -> None:
    """Score a policy and print the table. Raises ConfigError for what the user can mend."""
    config = _evaluation_config(policy, config_path, overrides)
    folder = policy_folder(policy).absolute()
    config = config.model_copy(update={"model": config.model.model_copy(update={"path": folder})})
    tokenizer = prepare(config, evaluates=True)
    with session(), View(0) as view:
        scores = evaluate_folder(config, tokenizer, view)
    print_scores({str(policy): scores})
    if json_path:
        json_path.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


def _evaluation_config(policy: Path, config_path: Path | None, overrides: Sequence[str]) -> TrainConfig:
    """The config asked for, else the training run's own, else the quickstart's."""
    own = policy / "config.yaml"
    if config_path is None and own.is_file() and isinstance(load(own), TrainConfig):
        config_path = own
    config = load(config_path or QUICKSTART, overrides)
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"an evaluation takes a training config, but {config_path} has task {config.task}")
    return config


def policy_folder(policy: Path) -> Path:
    """The released-layout folder behind a run (its newest checkpoint), a checkpoint, or `bundled:NAME`."""
    folder = model_folder(policy)
    if (folder / "checkpoints").is_dir():
        newest = newest_checkpoint(folder / "checkpoints")
        if newest is None:
            raise ConfigError(f"{folder} holds no complete checkpoint yet")
        folder = newest
    return folder / "policy" if (folder / "policy").is_dir() else folder


@contextmanager
def session() -> Iterator[None]:
    """A Ray that is shut down whatever happens, and faults of the user's making as ConfigError."""
    try:
        with explained():
            yield
    finally:
        ray.shutdown()


@contextmanager
def explained() -> Iterator[None]:
    """Faults of the user's making that show while a run goes on, an actor's or a full disk, as ConfigError."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, ValueError | OSError | ImportError | FloatingPointError):
            raise ConfigError(str(error.cause)) from error
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise ConfigError(
            f"the disk of run_dir is full ({error}); free some space and start again to resume the run"
        ) from error


def scores_of(rows: Sequence[dict[str, Any]], step: int) -> dict[str, Any]:
    """The evaluation row of a step without its bookkeeping."""
    [row] = [row for row in rows if row["kind"] == "evaluation" and row["step"] == step]
    return {name: value for name, value in row.items() if name not in ("kind", "step")}
