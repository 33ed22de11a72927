"""What waiting for judges costs: pull-based dispatch on heavy-tailed work, and judging that overlaps with painting.

Dispatch: 128 jobs of lognormal length (sigma .6) on 8 real Ray actors that only wait, so that two cores are no limit. A job
goes to the worker that is free (cluster/pool.py, as in a run); beside it, in the same turn, the same jobs dealt out beforehand
at random. Ideal is what no schedule can beat: the mean load of a worker, or the longest job.

Overlap: the real training run of the quickstart with groups that travel alone and a judge of set pace. Waiting is the time in
which nothing is thought or painted and only judges are busy, as `seconds/reward_wait` of a run's metrics says.
"""

import random
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory

import ray
from ray.actor import ActorHandle

from benchmarks.harness import ROOT, Figure, report
from benchmarks.workload import checkpoint, quickstart
from cluster.loop import train
from cluster.metrics import read_rows
from cluster.placement import connect
from cluster.pool import Job, Pool, drive
from cluster.preflight import prepare
from cluster.run import session
from cluster.system import build
from cluster.view import View
from cluster.workers import Workers

WORKERS, JOBS, SIGMA, MEDIAN_SECONDS, TURNS = 8, 128, 0.6, 0.25, 5
STEPS, PROMPTS, SECONDS_PER_PICTURE = 4, 16, 0.01


class Waiter:
    """Takes as long as it is told."""

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


def measure() -> Iterator[Figure]:
    yield from dispatch()
    yield overlap()


def dispatch() -> Iterator[Figure]:
    """Makespan over ideal, pulled and dealt."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        workers = [ray.remote(Waiter).options(num_cpus=0).remote() for _ in range(WORKERS)]
        ray.get([worker.wait.remote(0) for worker in workers])
        pulled, dealt = [], []
        for turn in range(TURNS):
            draw = random.Random(turn)
            seconds = [draw.lognormvariate(0, SIGMA) * MEDIAN_SECONDS for _ in range(JOBS)]
            ideal = max(sum(seconds) / WORKERS, max(seconds))
            pulled.append(makespan([Pool(role="judge", workers=workers, revive=_no_revival)], [seconds]) / ideal)
            hands: list[list[float]] = [[] for _ in workers]
            for each in seconds:
                draw.choice(hands).append(each)
            alone = [Pool(role="judge", workers=[worker], revive=_no_revival) for worker in workers]
            dealt.append(makespan(alone, hands) / ideal)
    finally:
        ray.shutdown()
    note = f"{JOBS} jobs, lognormal sigma {SIGMA}, median {MEDIAN_SECONDS} s, {WORKERS} workers; {TURNS} turns, "
    yield Figure(
        name="makespan over ideal, pulled",
        value=median(pulled),
        unit="x",
        at_most=1.10,
        note=f"{note}{min(pulled):.3f} to {max(pulled):.3f}",
    )
    yield Figure(
        name="the same jobs dealt at random", value=median(dealt), unit="x", note=f"{min(dealt):.3f} to {max(dealt):.3f}"
    )


def makespan(pools: Sequence[Pool], hands: Sequence[Sequence[float]]) -> float:
    """Seconds until each pool has done its jobs, given by their lengths."""
    for pool, hand in zip(pools, hands, strict=True):
        for seconds in hand:
            pool.add(Job(name="wait", submit=partial(_start, seconds), done=lambda _: None))
    started = time.perf_counter()
    drive(pools, timeout=60)
    return time.perf_counter() - started


def overlap() -> Figure:
    """Share of the reward time in which nothing else went on."""
    with checkpoint() as folder, TemporaryDirectory() as run_dir:
        judge = f"{{kind: python, verifier: benchmarks.paced_judge:PacedJudge, folder: {ROOT}"
        config = quickstart(
            folder,
            f"run_dir={run_dir}",
            f"steps={STEPS}",
            "evaluation.every=null",
            f"rollout.prompts_per_step={PROMPTS}",
            "rollout.prompts_per_piece=1",
            f"reward={judge}, options: {{seconds: {SECONDS_PER_PICTURE}}}, placement: {{num_cpus: 0.25}}}}",
        )
        tokenizer = prepare(config, evaluates=False)
        with session(), View(config.steps) as view:
            connect(config.cluster)
            train(build(config, tokenizer, view, Workers()), config)
        rows = [row for row in read_rows(Path(run_dir) / "metrics.jsonl") if row["kind"] == "train"]
    waits = [row["seconds/reward_wait"] for row in rows]
    rewards = [row["seconds/reward"] for row in rows]
    return Figure(
        name="waiting for rewards over reward time",
        value=100 * sum(waits) / sum(rewards),
        unit="%",
        at_most=10,
        note=f"{STEPS} steps of {PROMPTS} groups of 8; a step: rewards {fmean(rewards):.3g} s, waited {fmean(waits):.3g} s, "
        f"rollout {fmean(row['seconds/rollout'] for row in rows):.3g} s",
    )


def _start(seconds: float, worker: ActorHandle) -> list[ray.ObjectRef]:
    return [worker.wait.remote(seconds)]


def _no_revival(_: ActorHandle) -> ray.ObjectRef:
    raise AssertionError("workers that only wait are not lost")


if __name__ == "__main__":
    report("rewards", measure())
