"""How long nothing happens: ten steps of the real training run, and the share of them in which no stage is busy.

Taken twice. The driver's own view: a stage is busy from a call to its return, as cluster/pool.py and the loop's clock note it.
The actors' view is stricter: a stage is busy while Ray has one of its tasks executing in an actor, so that everything between
the driver and the actors (scheduling, messages, the loop's own work) counts as idle.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

import ray

from benchmarks.harness import Figure, report
from benchmarks.workload import checkpoint, quickstart
from cluster.loop import train
from cluster.metrics import Metrics, read_rows
from cluster.placement import connect
from cluster.pool import Pool
from cluster.preflight import prepare
from cluster.run import session
from cluster.system import build
from cluster.view import View
from cluster.workers import Workers
from configs.schema import TrainConfig

STEPS = 10
EVENTS_SETTLE = 3.0
"""Seconds after which Ray has collected the events of all actors (they report every second)."""
STAGES = {
    "think": "thinking",
    "paint_groups": "painting",
    "judge": "judging",
    "update": "updating",
    "publish": "syncing",
    "load": "syncing",
}
"""Actor method -> stage."""
Span = tuple[float, float]


class Stamped(Metrics):
    """Metrics that note when each training row was written, by two clocks, and what the pools did before it."""

    def __init__(self, run_dir: Path, pools: Sequence[Pool]) -> None:
        super().__init__(run_dir)
        self._pools = pools
        self.spans: list[Span] = []
        self.monotonic: list[float] = []
        self.wall: list[float] = []

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        if kind == "train":
            self.monotonic.append(time.perf_counter())
            self.wall.append(time.time())
            self.spans += [span for pool in self._pools for span in pool.spans]
        super().log(kind, step, values)


def measure() -> Iterator[Figure]:
    with checkpoint() as folder, TemporaryDirectory() as run_dir:
        config = quickstart(folder, f"run_dir={run_dir}", f"steps={STEPS + 1}", "evaluation.every=null")
        yield from _figures(config)


def _figures(config: TrainConfig) -> Iterator[Figure]:
    """The first step is left out: it warms everything up. Each of the others runs from one logged row to the next."""
    tokenizer = prepare(config, evaluates=False)
    with session(), View(config.steps) as view:
        connect(config.cluster)
        system = build(config, tokenizer, view, Workers())
        stamps = Stamped(config.run_dir, system.rollouts.pools)
        train(replace(system, metrics=stamps), config)
        time.sleep(EVENTS_SETTLE)
        tasks = executions(ray.timeline())
    rows = [row for row in read_rows(config.run_dir / "metrics.jsonl") if row["kind"] == "train"][1:]
    yield driver_view(list(pairwise(stamps.monotonic)), stamps.spans, rows)
    whole = (stamps.wall[0], stamps.wall[-1])
    everything = [span for spans in tasks.values() for span in spans]
    busy = {stage: covered(spans, whole) / STEPS for stage, spans in tasks.items()}
    yield Figure(
        name="no stage busy, as the actors see it",
        value=100 * (1 - covered(everything, whole) / (whole[1] - whole[0])),
        unit="%",
        at_most=5,
        note=f"Ray's task events; seconds a step: {', '.join(f'{stage} {seconds:.3g}' for stage, seconds in busy.items())}",
    )
    for name in ("rollout", "update", "sync"):
        yield Figure(name=f"{name} of a step", value=1e3 * median(row[f"seconds/{name}"] for row in rows), unit="ms")


def driver_view(steps: Sequence[Span], spans: Sequence[Span], rows: Sequence[Mapping[str, float]]) -> Figure:
    """From each step's (start, end), the pools' spans and the steps' metrics: the share left over, and where it lies."""
    walls = [end - start for start, end in steps]
    rollouts = [row["seconds/rollout"] - covered(spans, step) for step, row in zip(steps, rows, strict=True)]
    between = [
        wall - sum(row[f"seconds/{name}"] for name in ("rollout", "update", "sync"))
        for wall, row in zip(walls, rows, strict=True)
    ]
    shares = [100 * (a + b) / wall for a, b, wall in zip(rollouts, between, walls, strict=True)]
    return Figure(
        name="no stage busy, as the driver sees it",
        value=100 * (sum(rollouts) + sum(between)) / sum(walls),
        unit="%",
        at_most=5,
        note=f"{len(steps)} steps of {fmean(walls):.3g} s, {min(shares):.2g} to {max(shares):.2g} %, "
        f"median {median(shares):.2g}; "
        f"a step {1e3 * fmean(rollouts):.3g} ms within rollouts, {1e3 * fmean(between):.3g} ms around stages (logs, pictures)",
    )


def executions(events: Iterable[Mapping[str, Any]]) -> dict[str, list[Span]]:
    """(start, end) in seconds of every task of every stage."""
    spans: dict[str, list[Span]] = {stage: [] for stage in STAGES.values()}
    for event in events:
        method = str(event["name"]).rsplit(".", 1)[-1]
        if event["ph"] == "X" and str(event["cat"]).startswith("task::") and method in STAGES:
            start = float(event["ts"]) / 1e6
            spans[STAGES[method]].append((start, start + float(event["dur"]) / 1e6))
    return spans


def covered(spans: Iterable[Span], whole: Span) -> float:
    """Seconds of `whole` that lie in at least one span."""
    total, end = 0.0, whole[0]
    for start, stop in sorted(spans):
        start, stop = max(start, end), min(stop, whole[1])
        if stop > start:
            total, end = total + stop - start, stop
    return total


if __name__ == "__main__":
    report("idle", measure())
