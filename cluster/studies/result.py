"""What a finished run of a study leaves: result.json, all that its report reads."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.stages import begun_stages
from cluster.studies.plan import Run, run_name
from configs.base import dotted
from configs.load import ConfigError, model_folder, reward_models
from configs.panel import judged_by
from configs.sections import FilePrompts
from reward_server.fingerprint import fingerprint
from unigrpo.models.bagel.checkpoint import AUTOENCODER_FILE
from unigrpo.models.bagel.config import WEIGHTS_FILE
from unigrpo.reward_models.load import reward_model_folder

RESULT = "result.json"
FORMAT = 2
POLICY = "policy"
"""In a run's folder, what it ended with."""
IDLE = ("run_dir", "cluster", "logging", "checkpoint")
"""Keys of a config that say where a run lay and worked and not what it was; so do roles' placements and numbers of workers."""
MODE_KEY = re.compile(r"(?:content of )?modes\.([^.]+)\.")
START = ("model.weights", "model.autoencoder")
"""Fingerprints of the start's files, which stand for its path."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One finished run. Example: row "unigrpo", start "sft", seed 0, scores {"think": {"strict": .74, ...}}."""

    row: str
    start: str
    seed: int | None
    """None where nothing was trained."""
    diverged: str | None
    """Why it came to no end, with the step: its scores are empty then. None for a run that ended well."""
    scores: Mapping[str, Mapping[str, Any]]
    """Mode -> what `evaluate` says of the final policy, with plan_correct and follow where the task knows plans."""
    curves: Mapping[str, list[tuple[int, float]]]
    """Name -> (step, value): reward of the training steps, headline score on the validation prompts, and how updates went."""
    panel: list[dict[str, Any]]
    """What the panel of reward hacking measured, a row each time, with its alarms; none where there is no panel."""
    compute: Mapping[str, Any]
    """images and updates of training, images of evaluations, and seconds by stage."""
    config: Mapping[str, Any]
    """What decides the outcome, by dotted key (`decisive`)."""
    config_hash: str
    """Of it."""
    provenance: Sequence[Mapping[str, Any]]
    """The commands that worked on it, one after the other where it was cut off: command, versions, commit, host, when each
    `started`, its `lanes` (runs at a time), and when it `began` and `ended` this run; `ended` is None where it was cut off."""
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write it into the run's folder, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".{RESULT}"
        beside.write_text(json.dumps(asdict(self), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(beside, folder / RESULT)


def read_result(path: Path) -> Result:
    """A result.json. Raises ConfigError for one that this version does not read."""
    values = json.loads(path.read_text(encoding="utf-8"))
    if values.get("format") != FORMAT:
        raise ConfigError(f"{path} has format {values.get('format')}, this version reads {FORMAT}; take another run_dir")
    return Result(**values)


def modes_to_do(run: Run) -> list[str]:
    """The modes that a run has no scores of: all of one that has not ended, those that its study got since of one that has.

    What it was evaluated in besides is left alone.

    Raises ConfigError where what ended there was another run, and where modes were added and its policy was not kept.
    """
    path = run.config.run_dir / RESULT
    if not path.is_file():
        return list(run.modes)
    result = read_result(path)
    today = decisive(run)
    known = {mode_of(key) for key in result.config}
    added = [mode for mode in run.modes if mode not in known]
    compared = {None, *run.modes} - {*added}
    differing = [
        f"{key} was {result.config.get(key)!r} and is {today.get(key)!r}"
        for key in sorted(result.config.keys() | today.keys())
        if result.config.get(key) != today.get(key) and mode_of(key) in compared
    ]
    if differing:
        raise ConfigError(
            f"{path} was written by another config: {'; '.join(differing)}; set these back, give another run_dir, or remove "
            f"{path.parent} to run it again"
        )
    if result.diverged is not None:
        return []
    if added and run.seed is not None and final_policy(path.parent) is None:
        raise ConfigError(
            f"{path.parent} has ended and kept no policy to evaluate in {', '.join(added)}; take these modes out, or remove it "
            "to run it again"
        )
    return added


def require_same_study(results: Sequence[Result], planned: Sequence[Run] = ()) -> None:
    """Raises ConfigError where results, and runs that are to stand beside them, cannot share a table.

    Runs of one row differ in start and seed alone; rows, whatever they train, are evaluated alike after equally many steps. A
    mode is compared where it was evaluated.
    """
    told = [(run_name(each.row, each.start, each.seed), each.row, each.seed, each.config) for each in results]
    told += [(run.name, run.row, run.seed, settings(run)) for run in planned]
    free = ("seed", *START)
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    trained: dict[str, Mapping[str, Any]] = {}
    modes: dict[str, dict[str, dict[str, Any]]] = {}
    for name, row, seed, config in told:
        rows.setdefault(row, {})[name] = {
            key: value for key, value in config.items() if key not in free and mode_of(key) is None
        }
        for key, value in config.items():
            if (mode := mode_of(key)) is not None:
                modes.setdefault(mode, {}).setdefault(name, {})[key] = value
        if seed is not None:
            trained[name] = {"steps of all stages": config.get("steps", 0) + config.get("then.steps", 0)}
    compared: Iterable[Mapping[str, Mapping[str, Any]]] = (*modes.values(), trained, *rows.values())
    faults = dict.fromkeys(fault for alike in compared for fault in _unlike(alike))
    if faults:
        raise ConfigError(
            f"runs of this study cannot share a table: {'; '.join(faults)}; give what is to be different another run_dir, or "
            "remove the runs that are not to count"
        )


def decisive(run: Run) -> dict[str, Any]:
    """All that decides what a run comes to: its settings, and the weights it starts from."""
    assert run.config.model.path is not None, "a run has a start"
    folder = model_folder(run.config.model.path)
    files = (folder / WEIGHTS_FILE, folder / AUTOENCODER_FILE)
    return dict(zip(START, map(_content, files), strict=True)) | settings(run)


def settings(run: Run) -> dict[str, Any]:
    """What decides a run beside its start: its config, what evaluates each mode, and the content of files that they name.

    Raises ConfigError for a file that is not there.
    """
    modes = {}
    for mode, config in run.modes.items():
        asked = config.evaluation.model_dump(mode="json", exclude={"every", "reward", "thinks"})
        modes[mode] = asked | {"reward": judged_by(config.evaluation_reward), "thinks": config.evaluation_thinks}
    values = run.config.model_dump(mode="json", exclude={"model": {"path"}}) | {"modes": modes}
    return {f"content of {key}": _content(path) for key, path in _files(run)} | {
        key: value for key, value in dotted(values).items() if _counts(key)
    }


def hash_of(values: Mapping[str, Any]) -> str:
    """A short name of a resolved config."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def mode_of(key: str) -> str | None:
    """The mode that a dotted key is of. Example: modes.think.temperature and content of modes.think.prompts -> think."""
    found = MODE_KEY.match(key)
    return None if found is None else found[1]


def final_policy(folder: Path) -> Path | None:
    """What a finished run ended with, if it is there: kept, or in its last checkpoint, which a kill may have left untidied."""
    if (folder / POLICY).exists():
        return folder / POLICY
    last_stage = (begun_stages(folder) or [folder])[-1]
    return max(last_stage.glob(f"checkpoints/step-*/{POLICY}"), default=None)


def _files(run: Run) -> Iterator[tuple[str, Path]]:
    """What is read beside the start: files of prompts, and reward models that are climbed, with the keys of their sections."""
    prompts = {"prompts": run.config.prompts, "evaluation.prompts": run.config.evaluation.prompts}
    prompts |= {f"modes.{mode}.prompts": config.evaluation.prompts for mode, config in run.modes.items()}
    for key, asked in prompts.items():
        if isinstance(asked, FilePrompts) and asked.path is not None:
            yield key, asked.path
    for key, choice in reward_models(run.config):
        yield key, reward_model_folder(choice.model, choice.path)


def _content(path: Path) -> str:
    try:
        return fingerprint(path, settings={})
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _unlike(configs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Keys whose values differ between runs, each with the first two runs that do."""
    for key in sorted({key for config in configs.values() for key in config}):
        first, *others = [(name, config.get(key)) for name, config in configs.items()]
        for name, value in others:
            if value != first[1]:
                yield f"{key} is {first[1]!r} in {first[0]} and {value!r} in {name}"
                break


def _counts(key: str) -> bool:
    """Whether a dotted key decides what a run comes to."""
    parts = key.split(".")
    return parts[0] not in IDLE and "placement" not in parts[:-1] and parts[-1] != "num_workers"
