"""`unigrpo reproduce`: a study from its starts to its report. What is finished is left alone; what was cut off goes on."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import ray
import torch

from cluster.faults import Fault, Lost, Stalled
from cluster.placement import Role, connect
from cluster.policy import judging_role
from cluster.preflight import prepare, prepare_evaluation
from cluster.run import explained, session
from cluster.run_folder import held
from cluster.sft import run_sft
from cluster.stages import last_policy, stages_of
from cluster.studies.lanes import Failure, num_that_fit, run_lanes
from cluster.studies.perform import Watching, perform, tidy
from cluster.studies.plan import Run, runs_of, sft_config, study_file
from cluster.studies.provenance import provenance
from cluster.studies.report import results_of, write_report
from cluster.studies.result import modes_to_do, require_same_study
from cluster.system import rollout_roles, training_roles
from cluster.workers import Workers, require_alike
from configs.load import ConfigError, check_files, dump, load, start_folder
from configs.schema import SftConfig
from configs.sft import NewStart
from configs.study import FineTuned, StudyConfig
from learner.checkpoint import check_resumable, read_state
from learner.start import Start

STUDY_FILE = "study.yaml"
"""In the study's folder: what it resolved to when it ran last."""


def run_study(
    name: str, overrides: Sequence[str], *, rows: Sequence[str] = (), seeds: Sequence[int] = (), only_report: bool = False
) -> None:
    """Run what is not finished of a study, or of some of its rows with some seeds, then write the report of all there is.

    Raises ConfigError for what the user can mend, before anything is trained where that can be known, and Fault, once all else
    is done and reported, where runs failed.
    """
    command = provenance()
    path = study_file(name)
    study = load_study(path, overrides)
    with held(study.run_dir):
        failures = [] if only_report else _run_open(study, path.parent, rows, seeds, command)
        if not failures or results_of(study):
            print(f"report: {write_report(study, name)}")
    if failures:
        told = [f"{failure.run.name}: {failure.error}" for failure in failures]
        raise Fault(
            "\n  ".join([f"{study.name}: {len(failures)} of its runs failed; start it again to go on with them", *told])
        )


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """The study of a file. Raises ConfigError."""
    study = load(path, overrides)
    if not isinstance(study, StudyConfig):
        raise ConfigError(f"{path} has task {study.task}; a study has task study, such as configs/studies/table1.yaml")
    return study


def _run_open(
    study: StudyConfig, folder: Path, rows: Sequence[str], seeds: Sequence[int], command: Mapping[str, Any]
) -> list[Failure]:
    runs = runs_of(study, folder, rows=rows, seeds=seeds)
    require_same_study(results_of(study), runs)
    make_starts(study, folder, {run.start for run in runs})
    left = {run.name: modes_to_do(run) for run in runs}
    waiting = [run for run in runs if left[run.name]]
    for run in runs:
        if not left[run.name]:
            tidy(run, study)
    print(f"{study.name}: {plan_text(study, [*left.values()])}", flush=True)
    if not waiting:
        return []
    roles = _check(study, waiting)
    (study.run_dir / STUDY_FILE).write_text(dump(study), encoding="utf-8")
    return run_all(waiting, lambda runs: _one_session(study, runs, roles, command))


def plan_text(study: StudyConfig, left: Sequence[Sequence[str]]) -> str:
    """What is to do, given the modes that each run has no scores of."""
    finished = sum(not modes for modes in left)
    told = f"{finished} of {len(left)} runs are finished, {len(left) - finished} to go"
    if lacking := [modes for modes in left if 0 < len(modes) < len(study.modes)]:
        told += f"; of these ended, but without scores of {', '.join(sorted({*chain(*lacking)}))}: {len(lacking)}"
    return told


def run_all(runs: Sequence[Run], attempt: Callable[[Sequence[Run]], tuple[list[Failure], list[Run]]]) -> list[Failure]:
    """Attempt runs, each time in a session of its own, until none is left; those that failed.

    attempt: does runs; those that failed, and those that it did not come to. What a lost or stalled worker ended is tried once
    more, after all others.
    """
    waiting, tried_again, failed = list(runs), set[str](), list[Failure]()
    while waiting:
        failures, waiting = attempt(waiting)
        for failure in failures:
            if isinstance(failure.error, Lost | Stalled) and failure.run.name not in tried_again:
                tried_again.add(failure.run.name)
                waiting.append(failure.run)
            else:
                failed.append(failure)
    return failed


def _one_session(
    study: StudyConfig, runs: Sequence[Run], roles: Sequence[Role], command: Mapping[str, Any]
) -> tuple[list[Failure], list[Run]]:
    """As many of the runs as the lanes of one Ray session come to."""
    with session():
        connect(runs[0].config.cluster)
        fit = num_that_fit(roles, ray.cluster_resources())
        if study.lanes is not None and study.lanes > fit:
            print(f"lanes is {study.lanes}, but the cluster has room for {fit}", flush=True)
        num_lanes = min(len(runs), fit, study.lanes or fit)
        print(f"{num_lanes} at a time", flush=True)
        told = {**command, "lanes": num_lanes}

        def work(run: Run, workers: Workers, watching: Watching) -> None:
            with explained():
                perform(run, study, workers, watching, told)

        return run_lanes(runs, num_lanes, work)


def make_starts(study: StudyConfig, folder: Path, names: set[str]) -> None:
    """Fine-tune the starts that are needed and not there yet, one after the other.

    Raises ConfigError for one that is there, but was made with another config or from other weights.
    """
    for name in study.starts:
        start = study.starts[name]
        if name in names and isinstance(start, FineTuned):
            config = sft_config(study, start, folder)
            if last_policy(config).exists():
                _require_made_so(name, config)
            else:
                print(f"{study.name}: before its runs the start {name} is fine-tuned, once, into {config.run_dir}", flush=True)
                run_sft(config)


def _require_made_so(name: str, config: SftConfig) -> None:
    check_files(config)
    check_resumable(config)
    if isinstance(config.start, NewStart):
        return  # its base is made in its own run_dir, by the config that was just compared
    base = start_folder(config)
    made_from = read_state(last_policy(config).parent).reference_hash
    if made_from != (today := Start(base).hash(getattr(torch, config.learner.dtype))):
        raise ConfigError(
            f"start {name} in {config.run_dir} was made from weights with hash {made_from}, but {base} has {today}; put those "
            "weights back, give another run_dir, or remove this one to make the start again"
        )


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
