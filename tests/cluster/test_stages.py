"""A config of two stages as two runs, and when a run has nothing left to do."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.stages import is_finished, last_policy, stages_of
from configs.load import dump, load, parse
from configs.schema import TrainConfig


def two_stages(*overrides: str) -> TrainConfig:
    config = load(
        Path("configs/shapes/refl_text_grpo.yaml"), ["run_dir=/runs/x", "then.steps=30", "steps=20", "panel=null", *overrides]
    )
    assert isinstance(config, TrainConfig)
    return config


def test_one_stage_is_the_run_itself() -> None:
    config = load(Path("configs/shapes/unigrpo.yaml"))
    assert isinstance(config, TrainConfig)
    assert stages_of(config) == [config]


def test_the_second_stage_starts_from_the_policy_the_first_ends_with() -> None:
    config = two_stages()
    first, second = stages_of(config)
    assert [str(stage.run_dir) for stage in (first, second)] == ["/runs/x/stage-1", "/runs/x/stage-2"]
    assert (first.steps, first.algorithm.kind, first.model) == (20, "refl", config.model)
    assert (second.steps, second.algorithm.kind) == (30, "text_grpo")
    assert str(second.model.path) == "/runs/x/stage-1/checkpoints/step-000020/policy" == str(last_policy(first))
    assert first.trains == ("generation",)
    assert second.trains == ("text",)


def test_the_second_stage_draws_anew() -> None:
    seeds = {seed: [stage.seed for stage in stages_of(two_stages(f"seed={seed}"))] for seed in (0, 1)}
    assert [first for first, _ in seeds.values()] == [0, 1]
    assert len({seed for pair in seeds.values() for seed in pair}) == 4
    assert all(second < 2**31 for _, second in seeds.values())


def test_stages_are_configs_that_load_again_with_the_rates_they_use() -> None:
    config = two_stages()
    for stage, used, idle in zip(stages_of(config), ("generation", "text"), ("text", "generation"), strict=True):
        loaded: Any = parse(json.loads(json.dumps(stage.model_dump(mode="json"))), source=dump(stage))
        assert loaded == stage
        assert getattr(stage.learner, f"{used}_learning_rate") == getattr(config.learner, f"{used}_learning_rate")
        assert getattr(stage.learner, f"{idle}_learning_rate") != getattr(config.learner, f"{idle}_learning_rate")


@pytest.mark.parametrize(
    ("checkpoint", "rows", "every", "done"),
    [
        (None, [], None, False),
        (10, [], None, False),
        (20, [], None, True),
        (20, [("train", 20), ("evaluation", 10)], 10, False),
        (20, [("train", 20), ("evaluation", 20)], 10, True),
    ],
)
def test_a_run_is_finished_with_its_last_checkpoint_and_evaluation(
    tmp_path: Path, checkpoint: int | None, rows: list[tuple[str, int]], every: int | None, done: bool
) -> None:
    config = stages_of(two_stages())[0].model_copy(update={"run_dir": tmp_path})
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"every": every})})
    if checkpoint is not None:
        folder = tmp_path / "checkpoints" / f"step-{checkpoint:06d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    lines = [json.dumps({"kind": kind, "step": step}) + "\n" for kind, step in rows]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    assert is_finished(config) == done


def test_a_panel_of_the_last_step_is_part_of_a_run(tmp_path: Path) -> None:
    config = stages_of(two_stages("panel={every: 5}"))[0].model_copy(update={"run_dir": tmp_path})
    (tmp_path / "checkpoints" / "step-000020").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-000020" / "manifest.json").write_text("{}")
    assert not is_finished(config)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "panel", "step": 20}) + "\n")
    assert is_finished(config)
