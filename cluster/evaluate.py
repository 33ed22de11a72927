"""`unigrpo evaluate`: a policy paints a benchmark's prompts and is scored, or pictures that somebody else painted are."""

import json
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import ray
import torch

from cluster.evaluation import Benchmark, benchmark as benchmark_of, evaluate, forgotten_prompts, seen_by
from cluster.evaluation_files import Row, picture_rows, write_config, write_pictures, write_scores
from cluster.evaluation_subject import checkpoint_of, evaluation_config, out_folder, released_layout
from cluster.faults import Fault, Unscored
from cluster.judged_folder import JudgedPrompt, read_folder
from cluster.judging import Judges
from cluster.placement import connect
from cluster.policy import judging_role, policy_rollouts
from cluster.pool import drive
from cluster.preflight import prepare_evaluation, prepare_judging
from cluster.report import headline_text, print_scores
from cluster.roles import reward_roles
from cluster.rollouts import Rollouts, Unjudged
from cluster.run import session
from cluster.statistics import judging_statistics
from cluster.summary import scoring, summarise
from cluster.system import judges_of
from cluster.view import View
from cluster.workers import Workers
from configs.load import ConfigError
from configs.schema import TrainConfig
from unigrpo.geneval_folder import PaintedPrompt, is_geneval_folder, read_picture
from unigrpo.tokenizer import Tokenizer
from unigrpo.types import Painting, Score


def run_evaluation(
    subject: Path,
    overrides: Sequence[str],
    *,
    benchmark: str | None,
    config_path: Path | None,
    json_path: Path | None,
    out: Path | None,
) -> None:
    """Score a policy or a folder of pictures; print the table and write everything else down.

    Raises ConfigError for what the user can mend, and Unscored where a picture could not be judged.
    """
    config = evaluation_config(subject, benchmark, config_path, overrides)
    if json_path is not None and not json_path.absolute().parent.is_dir():
        raise ConfigError(f"--json {json_path} lies in a folder that does not exist; make it, or give another")
    run = _judge_pictures if is_geneval_folder(subject) else _evaluate_policy
    scores, folder = run(subject, config, benchmark or "evaluation", out)
    print_scores({str(subject): scores})
    print(f"{headline_text(scores)}; {scores['pictures']} pictures of {scores['prompts']} prompts")
    print(f"pictures with their scores: {folder}/sheet.png   a line a picture: {folder}/scores.jsonl   folder: {folder}")
    if json_path is not None:
        json_path.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


def _evaluate_policy(subject: Path, config: TrainConfig, name: str, out: Path | None) -> tuple[dict[str, Any], Path]:
    path = released_layout(checkpoint_of(subject)).absolute()
    config = config.model_copy(update={"model": config.model.model_copy(update={"path": path})})
    tokenizer = prepare_evaluation(config)
    folder = out_folder(out, subject, name)
    with session(), View(0) as view:
        _say_what_is_forgotten(config, view)
        scores, rows = _paint(config, tokenizer, view, folder)
        scores |= {"evaluated": str(subject), "benchmark": name}
        write_scores(folder, scores, rows, pictures=folder)
    return scores, folder


def _paint(config: TrainConfig, tokenizer: Tokenizer, view: View, folder: Path) -> tuple[dict[str, Any], list[Row]]:
    """Scores of the checkpoint at `model.path`, with the roles of a rollout and no learner; its pictures go to `folder`."""
    view.say("starting Ray, reasoners, denoisers and reward actors (half a minute)")
    connect(config.cluster)
    rollouts = policy_rollouts(config, tokenizer, view, Workers(), thinks=config.evaluation_thinks)
    write_config(folder, config)
    return evaluate_into(
        folder, rollouts, benchmark_of(config, tokenizer), tokenizer.decode, timeout=config.cluster.call_timeout
    )


def evaluate_into(
    folder: Path, rollouts: Rollouts, benchmark: Benchmark, decode: Callable[[Sequence[int]], str], *, timeout: float
) -> tuple[dict[str, Any], list[Row]]:
    """Scores of the weights that are loaded, and a row for each of their pictures, which are written as they are painted.

    Raises Unscored when a score failed. The pictures stay whatever happens; how to judge them again the message says.
    """
    names: dict[int, list[str]] = {}

    def write(group: Unjudged) -> None:
        names[group.prompt.index] = write_pictures(folder, group, timeout=timeout)

    def kept() -> str:
        again = f"and `unigrpo evaluate {folder}` judges them again without painting" if names else "evaluate again"
        return f"the pictures of {len(names)} of {len(benchmark.prompts)} prompts are kept, {again}"

    try:
        scores, groups = evaluate(rollouts, benchmark, write)
    except Fault as error:
        raise type(error)(f"{error}; {kept()}") from error
    if "unscored" in scores:
        raise Unscored(
            f"{scores['unscored']} of {len(benchmark.prompts)} prompts could not be judged (see the lines above); {kept()}"
        )
    rows = [
        row
        for group in groups
        for row in picture_rows(
            group,
            names[group.prompt.index],
            [None if thought is None else decode(thought.token_ids) for thought in group.thoughts_G],
        )
    ]
    return scores, rows


def _judge_pictures(subject: Path, config: TrainConfig, name: str, out: Path | None) -> tuple[dict[str, Any], Path]:
    config = config.model_copy(update={"model": config.model.model_copy(update={"path": None})})
    prepare_judging(config)
    reward = config.evaluation_reward
    try:
        painted = read_folder(subject, reward)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    folder = out_folder(out, subject, name)
    with session(), View(0) as view:
        _say_what_is_forgotten(config, view)
        if gaps := painted[-1].prompt.index + 1 - len(painted):
            view.say(f"{gaps} prompt numbers below {painted[-1].prompt.index} have no folder and count for nothing")
        view.say("starting Ray and reward actors")
        connect(config.cluster)
        role = judging_role(config)
        workers = Workers().serve(reward_roles(role, reward), config.cluster)
        judges = judges_of(role, reward, workers, view)
        judges.tally.groups = len(painted)
        watch = partial(view.stages, list(judges.pools.values()), judges.tally)
        judged = _judged(painted, judges, timeout=config.cluster.call_timeout, watch=watch)
        scores = summarise(judged, is_seen=seen_by(config), scoring=scoring(reward), seed=config.evaluation.seed)
        scores |= judging_statistics(judges.tally, judges.versions) | {"evaluated": str(subject), "benchmark": name}
        write_config(folder, config)
        write_scores(folder, scores, _rows(subject, judged), pictures=subject)
    return scores, folder


def _judged(
    painted: Sequence[PaintedPrompt], judges: Judges, *, timeout: float, watch: Callable[[], Any]
) -> list[JudgedPrompt]:
    """Every prompt of a folder before the judges; pictures are decoded as they are wanted, not all at once.

    Raises Unscored when a score failed.
    """
    waiting = deque(painted)
    judged: list[JudgedPrompt] = []

    def ask() -> None:
        if waiting:
            each = waiting.popleft()
            paintings = ray.put([_painting(file) for file in each.files])
            judges.judge(f"scores of {each.files[0].parent}", each.prompt, paintings, len(each.files), partial(take, each))

    def take(each: PaintedPrompt, scores: Sequence[Score]) -> None:
        judged.append(JudgedPrompt.of(each, scores))
        ask()

    ahead = 2 * sum(len(pool.workers) for pool in judges.pools.values())
    while waiting and not judges.tally.dropped:
        for _ in range(ahead):
            ask()
        drive(list(judges.pools.values()), timeout=timeout, watch=watch)
    if judges.tally.dropped:
        raise Unscored(
            f"{judges.tally.dropped} prompts or more could not be judged; see the reward actor's log, then evaluate again"
        )
    return sorted(judged, key=lambda each: each.prompt.index)


def _painting(file: Path) -> Painting:
    return Painting(image_HW3=read_picture(file), latent_LC=torch.empty(0, 0), velocity_rms=nan, policy_version=0)


def _rows(subject: Path, judged: Sequence[JudgedPrompt]) -> list[Row]:
    return [
        row
        for each in judged
        for row in picture_rows(each, [file.relative_to(subject).as_posix() for file in each.files], [None] * len(each.files))
    ]


def _say_what_is_forgotten(config: TrainConfig, view: View) -> None:
    if path := forgotten_prompts(config):
        view.say(f"prompts.path {path} is not here: which of its prompts training saw is not known, and none counts as seen")
