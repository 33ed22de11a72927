"""What a finished run of a study leaves: result.json, all that its report reads."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.studies.plan import Run
from configs.load import ConfigError, model_folder
from unigrpo.models.bagel.config import WEIGHTS_FILE

RESULT = "result.json"
FORMAT = 2
IDLE_SECTIONS = ("run_dir", "cluster", "logging", "checkpoint")
IDLE_KEYS = ("placement", "num_workers", "path")
"""Sections, and keys of any section, that say where a run lay and worked and not what it was; the start's hash stands for its
path.
"""


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
    """Name -> (step, value): reward of the training steps, and the headline score on the validation prompts."""
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


def is_done(run: Run) -> bool:
    """Whether a run has ended. Raises ConfigError where what ended there was another one."""
    path = run.config.run_dir / RESULT
    if not path.is_file():
        return False
    result = read_result(path)
    today = decisive(run)
    differing = [
        f"{key} was {result.config.get(key)!r} and is {today.get(key)!r}"
        for key in sorted(result.config.keys() | today.keys())
        if result.config.get(key) != today.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{path} was written by another config: {'; '.join(differing)}; set these back, give another run_dir, or remove "
            f"{path.parent} to run it again"
        )
    return True


def decisive(run: Run) -> dict[str, Any]:
    """All that decides what a run comes to: its config, how each mode evaluates it, and the weights it starts from."""
    assert run.config.model.path is not None, "a run has a start"
    with (model_folder(run.config.model.path) / WEIGHTS_FILE).open("rb") as file:
        start = hashlib.file_digest(file, "sha256").hexdigest()
    evaluated = {mode: config.model_dump(mode="json")["evaluation"] for mode, config in run.modes.items()}
    return {"sha256 of the start": start, **_flat({**run.config.model_dump(mode="json"), "modes": evaluated})}


def hash_of(values: Mapping[str, Any]) -> str:
    """A short name of a resolved config."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if key in IDLE_KEYS or (not prefix and key in IDLE_SECTIONS):
            continue
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
