"""What `unigrpo evaluate` is given, the config that scores it, and where the results go."""

from collections.abc import Sequence
from pathlib import Path

from cluster.benchmarks import BENCHMARKS
from cluster.stages import begun_stages
from configs.base import BUNDLED
from configs.load import QUICKSTART, ConfigError, load, model_folder
from configs.schema import TrainConfig
from learner.checkpoint import newest_checkpoint
from unigrpo.geneval_folder import is_geneval_folder

CHECKPOINTS = "checkpoints"
"""A run's folder of them."""


def evaluation_config(subject: Path, benchmark: str | None, config_path: Path | None, overrides: Sequence[str]) -> TrainConfig:
    """The config asked for, else the one of the run or folder, else the quickstart's; then the benchmark, then `overrides`.

    Raises ConfigError where nothing says who judges a folder of pictures, and for a config of another task.
    """
    config_path = config_path or own_config(subject)
    if config_path is None and benchmark is None and is_geneval_folder(subject):
        raise ConfigError(
            f"{subject} is a folder of pictures; say who judges them by --benchmark {', '.join(BENCHMARKS)} or by --config FILE"
        )
    if config_path is None and benchmark is None:
        print(f"{subject} says nothing of how to evaluate it, and there is no --config: {QUICKSTART.name} does")
    config = load(config_path or QUICKSTART, [*(BENCHMARKS[benchmark] if benchmark else ()), *overrides])
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"an evaluation takes a training config, but {config_path} has task {config.task}")
    return config


def own_config(subject: Path) -> Path | None:
    """The training config of a run, of one of its checkpoints, or beside a folder; None where there is none."""
    own = (subject.parent.parent if subject.parent.name == CHECKPOINTS else reached_stage(subject)) / "config.yaml"
    return own if own.is_file() and isinstance(load(own), TrainConfig) else None


def reached_stage(run: Path) -> Path:
    """Of a run of two stages the later one that has a checkpoint; any other folder itself."""
    reached = [stage for stage in begun_stages(run) if newest_checkpoint(stage / CHECKPOINTS) is not None]
    return reached[-1] if reached else run


def checkpoint_of(policy: Path) -> Path:
    """The folder of a policy: a run's newest checkpoint, `bundled:NAME`'s place, or `policy` itself. Raises ConfigError."""
    folder = reached_stage(model_folder(policy))
    if (folder / CHECKPOINTS).is_dir():
        newest = newest_checkpoint(folder / CHECKPOINTS)
        if newest is None:
            raise ConfigError(f"{folder} holds no complete checkpoint yet")
        return newest
    if not folder.exists():
        raise ConfigError(
            f"{policy} does not exist; give a run folder, a checkpoint, {BUNDLED}shapes or a folder of pictures in GenEval's "
            "layout (00000/metadata.jsonl, 00000/samples/0000.png)"
        )
    return folder


def released_layout(checkpoint: Path) -> Path:
    """The folder in the released layout behind a checkpoint of a run or of somebody else."""
    return checkpoint / "policy" if (checkpoint / "policy").is_dir() else checkpoint


def out_folder(asked: Path | None, subject: Path, name: str) -> Path:
    """An empty folder for what an evaluation called `name` leaves, made here so that it can be written.

    Without one asked for: RUN/evaluations/NAME-step-N for a run or one of its checkpoints, beside a folder of pictures, and
    below evaluations/ in the current folder for any other checkpoint; numbered on where something is there already. Raises
    ConfigError for one asked for that is not empty, or that cannot be made.
    """
    if asked is not None and not _is_free(asked):
        raise ConfigError(f"--out {asked} exists and is not empty; give another folder, what is there is not overwritten")
    folder = asked or _first_free(_default_out(subject, name))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made: {error.strerror}; give another by --out") from None
    return folder.absolute()


def _default_out(subject: Path, name: str) -> Path:
    if is_geneval_folder(subject):
        pictures = subject.absolute()
        return pictures.with_name(f"{pictures.name}-{name}")
    checkpoint = checkpoint_of(subject)
    if checkpoint.parent.name == CHECKPOINTS:
        return checkpoint.parent.parent / "evaluations" / f"{name}-{checkpoint.name}"
    label = subject.name.replace(BUNDLED, "bundled-") or checkpoint.absolute().name
    return Path("evaluations") / f"{label}-{name}"


def _first_free(folder: Path) -> Path:
    number = 1
    numbered = folder
    while not _is_free(numbered):
        number += 1
        numbered = folder.with_name(f"{folder.name}-{number}")
    return numbered


def _is_free(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
