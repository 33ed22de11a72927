"""What training cost, read from the metrics of a run's stages: pictures, updates and seconds; and its curves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster.metrics import WALL_CLOCK, read_rows
from cluster.studies.curves import smoothed
from cluster.summary import headline
from configs.schema import TrainConfig

Rows = Sequence[Mapping[str, Any]]


def _drift(row: Mapping[str, Any]) -> float | None:
    shift, reference = (row.get(f"flow/{name}_rms") for name in ("velocity_shift", "reference_velocity"))
    return None if shift is None or reference is None else float(shift / reference)


def _metric(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda row: row.get(name)


LEARNING: Mapping[str, Callable[[Mapping[str, Any]], float | None]] = {
    "drift": _drift,
    "regulariser weight": _metric("flow/regulariser_weight"),
    "text clipped": _metric("text/clip_fraction"),
    "flow clipped": _metric("flow/clip_fraction"),
    "fpo clipped": _metric("fpo/clip_fraction"),
    "fpo log-ratio": _metric("fpo/log_ratio_max"),
    "text mismatch": _metric("mismatch/text_mean"),
    "grad norm, text": _metric("grad_norm/text"),
    "grad norm, generation": _metric("grad_norm/generation"),
}
"""Name -> what a training row says of it: how the updates went, and how far the painter is from its reference."""
STAGES = ("rollout", "update", "sync", "evaluation", "panel")
"""Of the loop, one after the other; their seconds add up to what training took."""


def training_compute(stages: Sequence[tuple[TrainConfig, Rows]]) -> dict[str, Any]:
    """Images painted to learn from, optimizer updates, and seconds of every stage of the loop and every role, summed."""
    images = updates = steps = 0
    seconds: dict[str, float] = {}
    for config, rows in stages:
        training = [row for row in rows if row["kind"] == "train"]
        steps += len(training)
        images += sum(row["groups/asked"] for row in training) * config.rollout.group_size
        updates += len(training) * config.algorithm.updates
        for row in rows:
            for name, value in row.items():
                if name.startswith(WALL_CLOCK):
                    stage = name.removeprefix(WALL_CLOCK)
                    seconds[stage] = seconds.get(stage, 0.0) + value
    whole = sum(seconds.get(stage, 0.0) for stage in STAGES)
    return {"steps": steps, "images": images, "updates": updates, "seconds": seconds | {"training": whole}}


def training_curves(stages: Sequence[tuple[TrainConfig, Rows]]) -> dict[str, list[tuple[int, float]]]:
    """Reward of every step, headline score of every validation, and what `LEARNING` names in means of ten steps.

    Steps of a second stage follow on the first's.
    """
    reward: list[tuple[int, float]] = []
    learning: dict[str, list[tuple[int, float]]] = {name: [] for name in LEARNING}
    validation: dict[int, float] = {}
    before = 0
    for config, rows in stages:
        for row in rows:
            if row["kind"] == "train":
                reward.append((before + row["step"], row["reward/mean"]))
                for name, measured in LEARNING.items():
                    if (value := measured(row)) is not None:
                        learning[name].append((before + row["step"], value))
            elif row["kind"] == "evaluation" and "unscored" not in row:
                validation.setdefault(before + row["step"], headline(dict(row)))
        before += config.steps
    told = {name: smoothed(curve) for name, curve in learning.items() if curve}
    return {"reward": reward, "validation": sorted(validation.items()), **told}


def panel_rows(stages: Sequence[tuple[TrainConfig, Rows]]) -> list[dict[str, Any]]:
    """The panels of all stages; steps of a second stage follow on the first's."""
    found: list[dict[str, Any]] = []
    before = 0
    for config, rows in stages:
        panels = [{**row, "step": before + row["step"]} for row in rows if row["kind"] == "panel"]
        found += [{key: value for key, value in row.items() if not key.startswith(WALL_CLOCK)} for row in panels]
        before += config.steps
    return found


def rows_of(stages: Sequence[TrainConfig]) -> list[tuple[TrainConfig, Rows]]:
    """Each stage with the rows it wrote."""
    return [(stage, read_rows(stage.run_dir / "metrics.jsonl")) for stage in stages]
