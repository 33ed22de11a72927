"""Every method and every ablation of the shapes world, two steps of each, on one started system: who learns, and from what."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from safetensors.torch import load_file

from cluster.loop import train
from cluster.metrics import read_rows
from cluster.placement import connect
from cluster.preflight import prepare
from cluster.run_folder import run_folder
from cluster.stages import last_policy, stages_of
from cluster.system import build
from cluster.view import View
from cluster.workers import Workers
from configs.load import load, model_folder
from configs.roles import ClusterConfig
from configs.schema import TrainConfig
from tests.cluster.system.runs import metrics_rows, sample_rows
from unigrpo.models.bagel.config import WEIGHTS_FILE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONFIGS = Path(__file__).parents[3] / "configs"
PRESETS = sorted(
    file for folder in ("shapes", "ablations") for file in (CONFIGS / folder).glob("*.yaml") if file.name != "base.yaml"
)
SMALL = (
    "steps=2",
    "rollout.prompts_per_step=2",
    "rollout.prompts_per_piece=2",
    "checkpoint.every=2",
    "logging.samples_every=1",
    "logging.samples=64",
    "logging.gradients_every=2",
    "panel=null",
    "cluster.start_timeout=400",
    "cluster.call_timeout=400",
)
TERMS = {
    "unigrpo": {"text", "flow"},
    "flow_grpo": {"flow"},
    "text_grpo": {"text"},
    "fpo": {"fpo"},
    "uni_fpo": {"text", "fpo"},
    "refl": {"refl"},
}


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """None yet: the first run starts them, and each that follows has them rebuilt."""
    try:
        connect(ClusterConfig())
        yield Workers()
    finally:
        ray.shutdown()


def small(preset: Path, run_dir: Path) -> TrainConfig:
    """The preset on two prompts a step, two steps a stage."""
    config = load(preset, [*SMALL, f"run_dir={run_dir}"])
    assert isinstance(config, TrainConfig)
    return config if config.then is None else config.model_copy(update={"then": config.then.model_copy(update={"steps": 2})})


@pytest.mark.parametrize("preset", PRESETS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_preset_trains_its_experts_on_what_its_rollouts_leave(preset: Path, workers: Workers, tmp_path: Path) -> None:
    config = small(preset, tmp_path)
    tokenizer = prepare(config, evaluates=False)
    for stage in stages_of(config):
        with run_folder(stage):
            train(build(stage, tokenizer, View(stage.steps), workers), stage)
        rows = metrics_rows(stage.run_dir)
        assert [(row["kind"], row["step"]) for row in rows] == [("train", 1), ("train", 2)]
        for row in rows:
            require_its_terms(row, stage)
        require_its_thoughts(sample_rows(stage.run_dir, 2), stage)
        assert experts_changed(stage) == set(stage.algorithm.trains)


def require_its_terms(row: dict[str, Any], config: TrainConfig) -> None:
    """Losses of the method's terms and no others; samplers and learner agree, and every step begins on policy."""
    terms = TERMS[config.algorithm.kind]
    assert names(row, "loss/") - {"regulariser"} == terms
    assert names(row, "on_policy/") == terms - {"refl"}
    assert not any(row[f"on_policy/{term}"] for term in terms - {"refl"})
    assert {name for name in ("text", "flow") if f"mismatch/{name}" in row} == terms & {"text", "flow"}
    assert all(0 <= row[f"mismatch/{name}"] < 1e-4 for name in terms & {"text", "flow"})
    assert ("thought/tokens" in row) == config.rollout.thinks
    window = config.algorithm.window
    if "flow" in terms and window is not None:
        steps = {name.split("/")[0] for name in names(row, "flow/") if name[1].isdigit()}
        assert len(steps) == window.size
        assert {step[0] for step in steps} == {"k" if window.placement == "step" else "w"}


def require_its_thoughts(pictures: list[dict[str, Any]], config: TrainConfig) -> None:
    """Every picture has its thought, which so many siblings in a row share, or none has."""
    rollout = config.rollout
    assert len(pictures) == 2 * rollout.group_size
    assert all((picture["thought"] is not None) == rollout.thinks for picture in pictures)
    for first in range(0, len(pictures), rollout.images_per_thought):
        shared = pictures[first : first + rollout.images_per_thought]
        assert len({(picture["group"], picture["thought"]) for picture in shared}) == 1


def names(row: dict[str, Any], prefix: str) -> set[str]:
    return {name.removeprefix(prefix) for name in row if name.startswith(prefix)}


def experts_changed(config: TrainConfig) -> set[str]:
    """Experts of which a weight is another one than the run began with."""
    assert config.model.path is not None
    before = load_file(model_folder(config.model.path) / WEIGHTS_FILE)
    after = load_file(last_policy(config) / WEIGHTS_FILE)
    changed = [name for name in before if not before[name].float().equal(after[name].float())]
    painting = ("moe_gen", "vae2llm", "llm2vae", "time_embedder")
    return {"generation" if any(part in name for part in painting) else "text" for name in changed}


@pytest.mark.parametrize(("preset", "thinks"), [("unigrpo", False), ("flow_grpo_no_thinking", True)])
def test_a_policy_is_evaluated_with_or_without_thinking_however_it_is_trained(
    preset: str, thinks: bool, workers: Workers, start: Path, tmp_path: Path
) -> None:
    evaluation = (
        "evaluation.every=1",
        f"evaluation.thinks={thinks}",
        f"evaluation.prompts={{kind: file, path: {start}/held_out.jsonl}}",
    )
    config = load(CONFIGS / "shapes" / f"{preset}.yaml", [*SMALL, "steps=1", *evaluation, f"run_dir={tmp_path}"])
    assert isinstance(config, TrainConfig)
    train(build(config, prepare(config, evaluates=True), View(1), workers), config)
    assert [(row["kind"], row["step"]) for row in metrics_rows(tmp_path)] == [
        ("evaluation", 0),
        ("train", 1),
        ("evaluation", 1),
    ]
    for row in read_rows(tmp_path / "samples" / "evaluation-000001" / "samples.jsonl"):
        assert (row["thought"] is not None) == thinks
    assert all((picture["thought"] is not None) == config.rollout.thinks for picture in sample_rows(tmp_path, 1))
