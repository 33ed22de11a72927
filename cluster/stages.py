"""The runs that one training config is: itself, or two stages one after the other below its run folder."""

from pathlib import Path

from cluster.metrics import read_rows
from configs.algorithms import Algorithm
from configs.roles import LearnerConfig
from configs.schema import SftConfig, TrainConfig
from learner.checkpoint import POLICY, checkpoints_folder, newest_checkpoint
from unigrpo.seeds import derive_seed

STAGES = ("stage-1", "stage-2")
"""Folders of the stages of a run that has two."""


def stages_of(config: TrainConfig) -> list[TrainConfig]:
    """One config a stage, each a run of its own: stage-1 and stage-2, which starts from the policy that stage-1 ends with, and
    whose prompts, thoughts and paintings have a seed of their own.
    """
    if config.then is None:
        return [config]
    first = _stage(config, 1, config.steps, config.algorithm)
    model = config.model.model_copy(update={"path": last_policy(first)})
    second = _stage(config, 2, config.then.steps, config.then.algorithm)
    return [first, second.model_copy(update={"model": model, "seed": _second_seed(config.seed)})]


def begun_stages(run_dir: Path) -> list[Path]:
    """The folders of the stages that a run has begun; none where it has one stage, which lies in run_dir itself."""
    return [run_dir / stage for stage in STAGES if (run_dir / stage).is_dir()]


def last_policy(config: TrainConfig | SftConfig) -> Path:
    """Where the policy that a run of one stage ends with lies, once it has ended, in the released layout."""
    return _last_checkpoint(config) / POLICY


def is_finished(config: TrainConfig) -> bool:
    """Whether nothing of a run of one stage is left to do: neither a step, nor what is looked at after the last one."""
    if newest_checkpoint(checkpoints_folder(config)) != _last_checkpoint(config):
        return False
    written = {row["kind"] for row in read_rows(config.run_dir / "metrics.jsonl") if row["step"] == config.steps}
    due = {"evaluation": config.evaluation.due(config.steps, config.steps), "panel": config.panel_due(config.steps)}
    return all(kind in written for kind, is_due in due.items() if is_due)


def _second_seed(seed: int) -> int:
    """Of a second stage, which counts its steps from 0 again, and would meet the first one's draws with its seed; 31 bits."""
    return derive_seed(seed, "stage", 2) >> 32


def _last_checkpoint(config: TrainConfig | SftConfig) -> Path:
    return checkpoints_folder(config) / f"step-{config.steps:06d}"


def _stage(config: TrainConfig, number: int, steps: int, algorithm: Algorithm) -> TrainConfig:
    """A stage, without the learning rates of what it does not train."""
    idle = [group for group in ("text", "generation", "vision") if group not in algorithm.trains]
    unset = {f"{group}_learning_rate": LearnerConfig.model_fields[f"{group}_learning_rate"].default for group in idle}
    return config.model_copy(
        update={
            "steps": steps,
            "algorithm": algorithm,
            "then": None,
            "run_dir": config.run_dir / STAGES[number - 1],
            "learner": config.learner.model_copy(update=unset),
        }
    )
