"""The runs of a study: every row from each of its starts with every seed, each as resolved configs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.stages import last_policy
from configs.load import QUICKSTART, ConfigError, load
from configs.panel import judges_alike
from configs.schema import SftConfig, TrainConfig
from configs.study import FineTuned, Row, StudyConfig, StudyStart

STUDIES = QUICKSTART.parent / "studies"
"""Where `unigrpo reproduce NAME` finds NAME.yaml."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One policy of a study: trained, unless its row is a checkpoint alone, then evaluated in every mode."""

    row: str
    start: str
    seed: int | None
    """None where nothing is trained."""
    config: TrainConfig
    """What trains it, with the study's validation in the headline mode as its evaluations; its run_dir is the run's folder."""
    modes: Mapping[str, TrainConfig]
    """What evaluates it, by mode."""

    @property
    def name(self) -> str:
        """What it is called, and its folder below the study's."""
        return run_name(self.row, self.start, self.seed)


def run_name(row: str, start: str, seed: int | None) -> str:
    """Example: "unigrpo/sft-seed0"; "bagel/base" where nothing is trained."""
    return f"{row}/{start}" + ("" if seed is None else f"-seed{seed}")


def study_file(name: str) -> Path:
    """The file of a study that is named, or given by its path. Raises ConfigError where there is none."""
    path = Path(name) if name.endswith(".yaml") else STUDIES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in STUDIES.glob("*.yaml")))
        raise ConfigError(f"there is no study {name}; give one of {known}, or the path of a YAML file")
    return path


def sft_config(study: StudyConfig, start: FineTuned, folder: Path) -> SftConfig:
    """The fine-tuning that makes a start of a study whose file lies in `folder`. Raises ConfigError."""
    config = load(folder / start.config, [*start.overrides, *_cluster(study)])
    if not isinstance(config, SftConfig):
        raise ConfigError(f"{folder / start.config} makes a start, so its task must be sft, but it is {config.task}")
    return config


def runs_of(study: StudyConfig, folder: Path, *, rows: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Run]:
    """The runs of a study whose file lies in `folder`, all that one seed takes before the next seed's.

    rows, seeds: a part of the study's rows (empty for all), and the seeds to run them with (empty for the study's own).
    Raises ConfigError for rows that are unknown, for configs that cannot run, and for rows evaluated by different judges.
    """
    if unknown := [name for name in rows if name not in study.rows]:
        raise ConfigError(f"there is no row {', '.join(unknown)}; rows are {', '.join(study.rows)}")
    starts = {name: _path(study, start, folder) for name, start in study.starts.items()}
    asked = {name: study.rows[name] for name in study.rows if name in rows or not rows}
    own = {name: _steps(study, _config(folder, row, ())) if row.trains else [] for name, row in asked.items()}
    runs = [
        _run(study, folder, name, start, starts[start], seed if row.trains else None, own[name])
        for number, seed in enumerate(seeds or study.seeds)
        for name, row in asked.items()
        if row.trains or number == 0
        for start in study.starts_of(row)
    ]
    _require_one_judge(runs)
    return runs


def _run(study: StudyConfig, folder: Path, name: str, start: str, path: Path, seed: int | None, steps: Sequence[str]) -> Run:
    row = study.rows[name]
    run_dir = study.run_dir / run_name(name, start, seed)
    place = [f"run_dir={json.dumps(str(run_dir))}", f"model.path={json.dumps(str(path))}", f"seed={seed or 0}", *steps]
    place += _cluster(study)
    validation = study.validation
    prompts = validation.prompts.model_dump_json()
    watched = [f"evaluation.every={validation.every}", f"evaluation.prompts={prompts}"]
    watched += [f"evaluation.images_per_prompt={validation.images_per_prompt}", *next(iter(study.modes.values()))]
    final = [f"evaluation.prompts={study.prompts.model_dump_json()}", f"evaluation.images_per_prompt={study.images_per_prompt}"]
    return Run(
        row=name,
        start=start,
        seed=seed,
        config=_config(folder, row, [*place, *watched]),
        modes={mode: _config(folder, row, [*place, *final, *keys]) for mode, keys in study.modes.items()},
    )


def _steps(study: StudyConfig, row: TrainConfig) -> list[str]:
    """The study's steps; of a row with two stages each takes half."""
    if row.then is None:
        return [f"steps={study.steps}"]
    return [f"steps={study.steps - study.steps // 2}", f"then.steps={study.steps // 2}"]


def _config(folder: Path, row: Row, overrides: Sequence[str]) -> TrainConfig:
    config = load(folder / row.config, [*row.overrides, *overrides])
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"{folder / row.config} is a row of a study, so its task must be train, but it is {config.task}")
    return config


def _cluster(study: StudyConfig) -> list[str]:
    return [] if study.cluster is None else [f"cluster={study.cluster.model_dump_json()}"]


def _path(study: StudyConfig, start: StudyStart, folder: Path) -> Path:
    return last_policy(sft_config(study, start, folder)) if isinstance(start, FineTuned) else start.path


def _require_one_judge(runs: Sequence[Run]) -> None:
    first = next(iter(runs[0].modes.values())).evaluation_reward
    for run in runs:
        for mode, config in run.modes.items():
            if not judges_alike(first, config.evaluation_reward):
                raise ConfigError(
                    f"{run.name} is judged otherwise than {runs[0].name} in mode {mode}, so that their scores say nothing of "
                    "each other; set evaluation.reward in the row's config to what judges the others"
                )
