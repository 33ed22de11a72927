"""One run of a study on a started system: trained where it was left, evaluated in every mode, and written down at once."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.evaluation import benchmark, evaluate
from cluster.faults import Unscored
from cluster.policy import policy_rollouts
from cluster.preflight import prepare, prepare_evaluation
from cluster.report import headline_text
from cluster.run import stage_folders, train_stages
from cluster.samples import spread, write_samples
from cluster.stages import begun_stages, is_finished, last_policy
from cluster.studies.compute import panel_rows, rows_of, training_compute, training_curves
from cluster.studies.plan import Run
from cluster.studies.provenance import begun, now
from cluster.studies.result import POLICY, RESULT, Result, decisive, final_policy, hash_of, mode_of, read_result
from cluster.studies.thoughts import plan_scores
from cluster.view import View
from cluster.workers import Workers
from configs.load import model_folder
from configs.schema import TrainConfig
from configs.study import StudyConfig
from unigrpo.tokenizer import Tokenizer

Watching = Callable[[int], View]
"""The view of so many steps."""


def perform(run: Run, study: StudyConfig, workers: Workers, watching: Watching, command: Mapping[str, Any]) -> None:
    """Take a run to its result.json. Numbers that are no longer finite are a result too; what else goes wrong is raised.

    A run that has one is evaluated in the modes that its study got since. command: what is said of the command in the run's
    provenance.
    """
    folder = run.config.run_dir
    commands = begun(folder, command)
    if (folder / RESULT).is_file():
        result, policy = _ended(run)
    elif study.rows[run.row].trains:
        result, policy = _train(run, workers, watching)
    else:
        result, policy = _result(run, ()), _start(run)
    besides = {key: value for key, value in result.config.items() if mode_of(key) not in (None, *run.modes)}
    config, scores = decisive(run) | besides, dict(result.scores)
    if result.diverged is None:
        left = replace(run, modes={mode: config for mode, config in run.modes.items() if mode not in scores})
        with watching(0) as view:
            scores |= evaluate_modes(left, policy, study.sheet_pictures, workers, view)
    painted, seconds = (sum(each[name] for each in scores.values()) for name in ("painted", "seconds"))
    replace(
        result,
        scores=scores,
        compute={**result.compute, "evaluation_images": painted, "seconds": {**result.compute["seconds"], "modes": seconds}},
        config=config,
        config_hash=hash_of(config),
        provenance=[*result.provenance, *commands[len(result.provenance) : -1], commands[-1] | {"ended": now()}],
    ).write(folder)
    tidy(run, study)


def evaluate_modes(run: Run, policy: Path, pictures: int, workers: Workers, view: View) -> dict[str, dict[str, Any]]:
    """Scores of a policy in each mode, with how many pictures were painted for them in how many seconds.

    `pictures` of each mode go to samples/MODE in the run's folder: of the same prompts, whatever the policy.
    Raises Unscored where a score failed.
    """
    configs = {mode: _with_policy(config, policy) for mode, config in run.modes.items()}
    first = next(iter(configs.values()))
    tokenizer = prepare_evaluation(first)
    thinks = any(config.evaluation_thinks for config in configs.values())
    rollouts = policy_rollouts(first, tokenizer, view, workers, thinks=thinks)
    scores = {}
    for mode, config in configs.items():
        asked, timeout = benchmark(config, tokenizer), config.cluster.call_timeout
        started = time.perf_counter()
        found, groups = evaluate(rollouts, asked)
        if "unscored" in found:
            raise Unscored(
                f"{found['unscored']} prompts of {run.name} could not be judged in mode {mode}; start again to go on"
            )
        if asked.plan is not None:
            found |= plan_scores(groups, tokenizer.decode, timeout=timeout)
        shown = spread(groups, pictures // asked.sampling.group_size)
        write_samples(run.config.run_dir / "samples" / mode, shown, limit=pictures, decode=tokenizer.decode, timeout=timeout)
        painted = len(asked.prompts) * asked.sampling.group_size * (1 if asked.plan is None else 2)
        scores[mode] = found | {"painted": painted, "seconds": time.perf_counter() - started}
        view.say(f"{mode}: {headline_text(found)}")
    return scores


def tidy(run: Run, study: StudyConfig) -> None:
    """Remove a finished run's checkpoints; its last policy stays in policy/ where the study keeps it."""
    folder = run.config.run_dir
    assert (folder / RESULT).is_file(), "what is not written down is not removed"
    stages = begun_stages(folder) or [folder]
    last = final_policy(folder)
    if study.keeps_policy and last is not None and last != folder / POLICY:
        last.rename(folder / POLICY)
    for stage in stages:
        if (stage / "checkpoints").exists():
            shutil.rmtree(stage / "checkpoints")


def _ended(run: Run) -> tuple[Result, Path]:
    """What an earlier command brought a run to, and its policy."""
    folder = run.config.run_dir
    policy = _start(run) if run.seed is None else final_policy(folder)
    assert policy is not None, "a run whose policy is gone has nothing to do"
    return read_result(folder / RESULT), policy


def _train(run: Run, workers: Workers, watching: Watching) -> tuple[Result, Path]:
    """What training comes to, without scores, and the policy in the released layout."""
    tokenizer: Tokenizer = prepare(run.config, evaluates=True)
    diverged = None
    with stage_folders(run.config) as stages:
        try:
            if not is_finished(stages[-1]):
                train_stages(stages, tokenizer, workers, watching)
        except FloatingPointError as error:
            diverged = str(getattr(error, "cause", error))  # of an actor's fault without the traceback
    return _result(run, stages, diverged), last_policy(stages[-1])


def _result(run: Run, stages: Sequence[TrainConfig], diverged: str | None = None) -> Result:
    """What the metrics of a run's stages tell, before anything is evaluated."""
    rows = rows_of(stages)
    return Result(
        row=run.row,
        start=run.start,
        seed=run.seed,
        diverged=diverged,
        scores={},
        curves=training_curves(rows),
        panel=panel_rows(rows),
        compute=training_compute(rows),
        config={},
        config_hash="",
        provenance=(),
    )


def _start(run: Run) -> Path:
    assert run.config.model.path is not None, "a run has a start"
    return model_folder(run.config.model.path)


def _with_policy(config: TrainConfig, policy: Path) -> TrainConfig:
    return config.model_copy(update={"model": config.model.model_copy(update={"path": policy}), "then": None})
