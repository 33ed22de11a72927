"""How long nothing happens: ten steps of the real training run, and the share of them in which no stage is busy.

Taken twice. The driver's own view: a stage is busy from a call to its return, as cluster/pool.py and the loop's clock note it.
The actors' view is stricter: a stage is busy while Ray has one of its tasks executing in an actor, so that everything between
the driver and the actors (scheduling, messages, the loop's own work) counts as idle.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import ray

from benchmarks.harness import Figure, report
from benchmarks.workload import checkpoint, quickstart
from cluster.loop import train
from cluster.metrics import Metrics, read_rows
from cluster.preflight import prepare
from cluster.run import session
from cluster.system import build
from cluster.view import View
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
    """Metrics that note when each training row was written, by two clocks."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        self.monotonic: list[float] = []
        self.wall: list[float] = []

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        self.monotonic.append(time.perf_counter())
        self.wall.append(time.time())
        super().log(kind, step, values)


def measure() -> Iterator[Figure]:
    with checkpoint() as folder, TemporaryDirectory() as run_dir:
        config = quickstart(folder, f"run_dir={run_dir}", f"steps={STEPS + 1}", "checkpoint.every=1000")
        yield from _figures(config)


def _figures(config: TrainConfig) -> Iterator[Figure]:
    """The first step is left out: it warms everything up. Each of the others runs from one logged row to the next."""
    tokenizer = prepare(config, evaluates=False)
    with session(), View(config.steps) as view:
        system = build(config, tokenizer, view)
        stamps = Stamped(config.run_dir)
        train(replace(system, metrics=stamps), config)
        time.sleep(EVENTS_SETTLE)
        tasks = executions(ray.timeline())
        spans = [span for pool in system.rollouts.pools for span in pool.spans]
    rows = [row for row in read_rows(config.run_dir / "metrics.jsonl") if row["kind"] == "train"][1:]
    whole = (stamps.monotonic[0], stamps.monotonic[-1])
    wall = whole[1] - whole[0]
    timed = sum(row["seconds/update"] + row["seconds/sync"] for row in rows)
    step = f"{STEPS} steps of {wall / STEPS:.3g} s"
    yield Figure(
        name="no stage busy, as the driver sees it",
        value=100 * (1 - (covered(spans, whole) + timed) / wall),
        unit="%",
        at_most=5,
        note=f"{step}: calls to think, paint and judge, and the clock of update and sync",
    )
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
