"""One running system with two workers of every role: what a run leaves behind, and what it takes to lose some of them."""

import os
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image
from ray.actor import ActorHandle

from cluster.faults import Lost, Unscored
from cluster.loop import train
from cluster.placement import connect
from cluster.preflight import prepare
from cluster.rollouts import Group
from cluster.run import explained
from cluster.system import System, build
from cluster.view import View
from cluster.wait import wait_all
from cluster.workers import Workers
from configs.load import ConfigError
from learner.checkpoint import newest_checkpoint, verify
from reward_server.server import Judgement, Tally
from tests.cluster.system.runs import metrics_rows, run_config, sample_rows
from unigrpo.types import Painting, Prompt, Score, ScoreFailure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = 2
TIMEOUT = 400.0


@pytest.fixture(scope="module")
def system(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Trained for two steps, and still running."""
    config = run_config(
        start,
        tmp_path_factory.mktemp("two_of_each"),
        {
            "steps": STEPS,
            "checkpoint.every": 1,
            "learner.num_ranks": 2,
            "learner.zero_stage": 2,
            "reasoner.num_workers": 2,
            "denoiser.num_workers": 2,
            "reward.num_workers": 2,
        },
    )
    try:
        connect(config.cluster)
        system = build(config, prepare(config, evaluates=False), View(STEPS), Workers())
        train(system, config)
        yield system
    finally:
        ray.shutdown()


def on_worker(worker: ActorHandle, function: Callable[[Any], Any]) -> Any:
    """What `function` gives for the actor's object, in the actor's process."""
    [answer] = wait_all({"a look inside": worker.__ray_call__.options(max_task_retries=-1).remote(function)}, timeout=TIMEOUT)
    return answer


def pid_of(worker: ActorHandle) -> int:
    return int(on_worker(worker, lambda _: os.getpid()))


def test_every_step_is_on_policy_and_every_group_is_judged(system: System) -> None:
    rows = metrics_rows(system.config.run_dir)
    assert [(row["kind"], row["step"]) for row in rows] == [("train", 1), ("train", 2)]
    for row in rows:
        assert {row[name] for name in row if name.startswith("on_policy/")} == {0.0}
        assert row["text/clip_fraction"] == row["flow/clip_fraction"] == 0
        assert 0 <= row["mismatch/text"] < 1e-4
        assert 0 <= row["mismatch/flow"] < 1e-4
        assert (row["groups/asked"], row["groups/dropped"], row["scores/retried"]) == (2, 0, 0)
        assert row["grad_norm/text"] > 0
        assert row["grad_norm/generation"] > 0
    assert rows[0]["reward/mean"] != rows[1]["reward/mean"]


def test_the_gallery_holds_pictures_thoughts_prompts_rewards_and_groups(system: System) -> None:
    folder = system.config.run_dir / "samples" / "step-000001"
    prompts = {prompt.index: prompt.text for prompt in system.prompts.batch(0)}
    rows = sample_rows(system.config.run_dir, 1)
    assert {(row["group"], row["sibling"], row["prompt"]) for row in rows} == {
        (index, sibling, text) for index, text in prompts.items() for sibling in range(4)
    }
    for row in rows:
        assert np.asarray(Image.open(folder / row["image"])).shape == (24, 24, 3)
        assert row["thought"]
        assert row["reward"] == row["breakdown"]["random"]
    assert len({row["reward"] for row in rows}) == len(rows) == 8
    assert (folder / "sheet.png").is_file()


def contents(groups: Sequence[Group]) -> list[Any]:
    """All that a step's groups hold, as plain values."""
    return [
        (
            group.prompt.index,
            group.thoughts,
            group.scores,
            [painting.image_HW3.tolist() for painting in ray.get(group.paintings)],
            [trace.x_next_WLC.tolist() for trace in ray.get(list(group.trajectories))],
        )
        for group in groups
    ]


def test_workers_killed_at_work_come_back_filled_and_change_nothing(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts, prompts, sampling = system.rollouts, system.prompts.batch(STEPS), system.sampling(STEPS)
    undisturbed = contents(rollouts.generate(prompts, sampling))
    pids = {pool.role: [pid_of(worker) for worker in pool.workers] for pool in rollouts.pools}
    to_kill = {pool.role: pids[pool.role][0] for pool in rollouts.pools}

    def kill_who_began(pools: Sequence[Any], _: Tally) -> None:
        for pool in pools:
            if any(busy.index == 0 for busy in pool.busy.values()) and pool.role in to_kill:
                os.kill(to_kill.pop(pool.role), signal.SIGKILL)

    monkeypatch.setattr(rollouts, "_watch", kill_who_began)
    assert contents(rollouts.generate(prompts, sampling)) == undisturbed
    assert not to_kill
    for pool in rollouts.pools:
        first, second = (pid_of(worker) for worker in pool.workers)
        assert first != pids[pool.role][0]
        assert second == pids[pool.role][1]
    for pool in (rollouts.thinking, rollouts.painting):
        assert [on_worker(worker, lambda each: each.built.version()) for worker in pool.workers] == [STEPS, STEPS]


def test_a_worker_killed_before_new_weights_arrive_serves_them_too(system: System) -> None:
    denoiser = system.rollouts.painting.workers[1]
    os.kill(pid_of(denoiser), signal.SIGKILL)
    system.rollouts.load(system.learner.publish(STEPS), version=STEPS)
    assert on_worker(denoiser, lambda each: each.built.version()) == STEPS


class PartialJudge:
    """Judges every picture of prompts that are not in `broken`; fails the second sibling of those that are."""

    def __init__(self, broken: set[int]) -> None:
        self._broken = broken

    def judge(self, prompt: Prompt, paintings: Sequence[Painting], places: Sequence[int]) -> Judgement:
        failure = ScoreFailure(reason="the judge saw nothing")
        broken = prompt.index in self._broken
        scores = [failure if broken and place == 1 else Score(value=0.5 + place, breakdown={}) for place in places]
        asked = Tally(asked=len(places), failed=int(broken))
        return Judgement(verdicts=tuple(scores), asked=asked, version="1")


def judged_by(system: System, broken: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    judge = ray.remote(PartialJudge).options(num_cpus=0).remote(broken)
    monkeypatch.setattr(system.rollouts.judges["training"].pools["random"], "workers", [judge])


def test_a_group_with_a_failed_score_is_dropped_and_counted_never_zero(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, sound = system.prompts.batch(STEPS)
    judged_by(system, {broken.index}, monkeypatch)
    groups = system.rollouts.generate([broken, sound], system.sampling(STEPS))
    stats = system.learner.update(STEPS, groups, mini_batches=1)
    system.record(STEPS + 1, groups, stats, {})
    row = metrics_rows(system.config.run_dir)[-1]
    assert (row["groups/asked"], row["groups/dropped"]) == (2, 1)
    assert (row["scores/asked"], row["scores/failed"], row["scores/retried"]) == (9, 2, 1)
    assert row["reward/mean"] == np.mean([0.5, 1.5, 2.5, 3.5])
    assert [sample["group"] for sample in sample_rows(system.config.run_dir, STEPS + 1)] == [sound.index] * 4


def test_a_step_without_a_judged_group_ends_the_run(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(system, {prompt.index for prompt in system.prompts.batch(STEPS)}, monkeypatch)
    with pytest.raises(Unscored, match=f"every group of step {STEPS} was dropped for a failed score"):
        train(system, system.config.model_copy(update={"steps": STEPS + 1}))
    assert [row["step"] for row in metrics_rows(system.config.run_dir)] == [1, 2]


def test_a_full_disk_leaves_the_checkpoint_before_it(system: System) -> None:
    rank = pid_of(system.learner.ranks[0])
    unlimited = resource.prlimit(rank, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    folder = system.config.run_dir / "checkpoints"
    try:
        with pytest.raises(ConfigError, match=r"checkpoints/step-000003 could not be saved .*Free some space"), explained():
            system.learner.save(STEPS + 1)
    finally:
        resource.prlimit(rank, resource.RLIMIT_FSIZE, unlimited)
    newest = newest_checkpoint(folder)
    assert newest is not None
    assert newest.name == f"step-{STEPS:06d}"
    verify(newest)
    assert system.learner.restore() == STEPS
    assert sorted(path.name for path in folder.iterdir()) == ["step-000001", "step-000002"]


def test_a_learner_rank_lost_in_the_middle_of_an_update_ends_the_run_by_name(system: System) -> None:
    groups = system.rollouts.generate(system.prompts.batch(STEPS), system.sampling(STEPS))
    on_worker(
        system.learner.ranks[1],
        lambda each: setattr(each._learner, "update", lambda *_: os.kill(os.getpid(), signal.SIGKILL)),
    )
    with pytest.raises(Lost, match=rf"update {STEPS} on learner rank 1: its process died, start the run again"):
        system.learner.update(STEPS, groups, mini_batches=1)
