"""`unigrpo reproduce`: a study from its starts to its report. What is finished is left alone; what was cut off goes on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from cluster.placement import Role, connect
from cluster.policy import judging_role
from cluster.preflight import prepare, prepare_evaluation
from cluster.run import session
from cluster.run_folder import held
from cluster.sft import run_sft
from cluster.stages import last_policy, stages_of
from cluster.studies.lanes import num_that_fit, run_lanes
from cluster.studies.perform import perform, tidy
from cluster.studies.plan import Run, runs_of, sft_config, study_file
from cluster.studies.provenance import provenance
from cluster.studies.report import write_report
from cluster.studies.result import is_done
from cluster.system import rollout_roles, training_roles
from cluster.workers import require_alike
from configs.load import ConfigError, dump, load
from configs.study import FineTuned, StudyConfig

STUDY_FILE = "study.yaml"
"""In the study's folder: what it resolved to when it ran last."""


def run_study(
    name: str, overrides: Sequence[str], *, rows: Sequence[str] = (), seeds: Sequence[int] = (), only_report: bool = False
) -> None:
    """Run what is not finished of a study, or of some of its rows with some seeds, then write the report of all there is.

    Raises ConfigError for what the user can mend, before anything is trained where that can be known.
    """
    command = provenance()
    path = study_file(name)
    study = load_study(path, overrides)
    with held(study.run_dir):
        (study.run_dir / STUDY_FILE).write_text(dump(study), encoding="utf-8")
        if not only_report:
            _run_open(study, path.parent, rows, seeds, command)
        report = write_report(study, name)
    print(f"report: {report}")


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """The study of a file. Raises ConfigError."""
    study = load(path, overrides)
    if not isinstance(study, StudyConfig):
        raise ConfigError(f"{path} has task {study.task}; a study has task study, such as configs/studies/table1.yaml")
    return study


def _run_open(study: StudyConfig, folder: Path, rows: Sequence[str], seeds: Sequence[int], command: Mapping[str, Any]) -> None:
    runs = runs_of(study, folder, rows=rows, seeds=seeds)
    make_starts(study, folder, {run.start for run in runs})
    waiting = []
    for run in runs:
        if is_done(run):
            tidy(run, study)
        else:
            waiting.append(run)
    print(f"{study.name}: {len(runs) - len(waiting)} of {len(runs)} runs are finished, {len(waiting)} to go", flush=True)
    if not waiting:
        return
    roles = _check(study, waiting)
    with session():
        connect(waiting[0].config.cluster)
        num_lanes = study.lanes or min(len(waiting), num_that_fit(roles, ray.cluster_resources()))
        print(f"{num_lanes} at a time", flush=True)
        command = {**command, "lanes": num_lanes}
        run_lanes(waiting, num_lanes, lambda run, workers, watching: perform(run, study, workers, watching, command))


def make_starts(study: StudyConfig, folder: Path, names: set[str]) -> None:
    """Fine-tune the starts that are needed and not there yet, one after the other."""
    for name in study.starts:
        start = study.starts[name]
        if name in names and isinstance(start, FineTuned):
            config = sft_config(start, folder)
            if not last_policy(config).exists():
                print(f"{study.name}: start {name} is fine-tuned into {config.run_dir}", flush=True)
                run_sft(config)


def _check(study: StudyConfig, runs: Sequence[Run]) -> list[Role]:
    """Everything that can end a run before it starts, checked for all of them; the roles of a system that serves them all.

    Raises ConfigError.
    """
    systems: list[tuple[str, Sequence[Role]]] = []
    for run in runs:
        if study.rows[run.row].trains:
            prepare(run.config, evaluates=True)
            systems.append((run.name, training_roles(stages_of(run.config)[0])))
        for config in run.modes.values():
            prepare_evaluation(config)
            rewards = {judging_role(config): config.evaluation_reward}
            systems.append((run.name, rollout_roles(config, rewards, thinks=config.evaluation_thinks)))
    require_alike(systems)
    addresses = {run.config.cluster.address for run in runs}
    if len(addresses) > 1:
        raise ConfigError(f"cluster.address is {' and '.join(sorted(addresses))} in rows of one study; make them equal")
    return list({role.name: role for _, roles in systems for role in roles}.values())
