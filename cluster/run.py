"""One command from config to result: start the roles, run, shut down, and turn faults of the user's making into one message."""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import ray
from ray.exceptions import RayTaskError

from cluster.loop import train
from cluster.metrics import WALL_CLOCK
from cluster.placement import connect
from cluster.preflight import prepare
from cluster.run_folder import run_folder
from cluster.stages import is_finished, stages_of
from cluster.system import build
from cluster.view import View
from cluster.workers import Workers
from configs.load import ConfigError
from configs.schema import TrainConfig
from unigrpo.tokenizer import Tokenizer


def run_training(config: TrainConfig) -> None:
    """Train until the last step of the last stage, resuming what is found in `run_dir`; a stage that is done is left alone.

    Raises ConfigError for what the user can mend.
    """
    tokenizer = prepare(config, evaluates=config.evaluation.every is not None)
    with session(), stage_folders(config) as stages:
        print("starting Ray", flush=True)
        connect(config.cluster)
        train_stages(stages, tokenizer, Workers(), View)
        print(f"done: metrics, checkpoints and samples are in {config.run_dir}")


@contextmanager
def stage_folders(config: TrainConfig) -> Iterator[list[TrainConfig]]:
    """The stages of a config, the folder of each and that of the whole held as run_folder holds it. Raises ConfigError."""
    stages = stages_of(config)
    with ExitStack() as folders:
        for each in stages if len(stages) == 1 else [config, *stages]:
            folders.enter_context(run_folder(each))
        yield stages


def train_stages(
    stages: Sequence[TrainConfig], tokenizer: Tokenizer, workers: Workers, watching: Callable[[int], View]
) -> None:
    """Train every stage but those before the last that are done; `watching` gives the view of so many steps."""
    for stage in (*(stage for stage in stages[:-1] if not is_finished(stage)), stages[-1]):
        with watching(stage.steps) as view:
            system = build(stage, tokenizer, view, workers)
            train(system, stage)
            system.metrics.close()


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
        if isinstance(error.cause, ValueError | OSError | ImportError | ArithmeticError):
            raise ConfigError(str(error.cause)) from error
        raise
    except FloatingPointError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise ConfigError(
            f"the disk of run_dir is full ({error}); free some space and start again to resume the run"
        ) from error


def scores_of(rows: Sequence[dict[str, Any]], step: int) -> dict[str, Any]:
    """The evaluation row of a step without its bookkeeping."""
    [row] = [row for row in rows if row["kind"] == "evaluation" and row["step"] == step]
    return {name: value for name, value in row.items() if name not in ("kind", "step") and not name.startswith(WALL_CLOCK)}
