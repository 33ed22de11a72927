"""The panel's section: what it refuses, and when a panel is due."""

import re

import pytest

from configs.load import QUICKSTART, ConfigError, judges, load
from configs.panel import PanelConfig
from configs.schema import TrainConfig


def quickstart(*overrides: str) -> TrainConfig:
    config = load(QUICKSTART, overrides)
    assert isinstance(config, TrainConfig)
    return config


def test_a_panel_is_due_at_the_start_at_the_end_and_in_between() -> None:
    config = quickstart("steps=25", "panel={every: 10}")
    assert [step for step in range(26) if config.panel_due(step)] == [0, 10, 20, 25]
    assert not any(quickstart("panel=null").panel_due(step) for step in range(26))


@pytest.mark.parametrize(
    ("training", "held_out"),
    [
        ("{kind: geneval, detector: shapes}", "{kind: geneval, detector: shapes, placement: {num_cpus: 0.5}, batch_size: 8}"),
        ("{kind: differentiable}", "{kind: differentiable, num_workers: 2}"),
    ],
)
def test_the_training_reward_is_no_held_out_verifier(training: str, held_out: str) -> None:
    with pytest.raises(
        ConfigError, match=r"panel\.reward judges as the training reward does, .*; give another verifier, or null"
    ):
        quickstart(f"reward={training}", f"panel={{reward: {held_out}}}")


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["algorithm={kind: refl, late_steps: [5, 9]}"], "algorithm"),
        (["then={steps: 5, algorithm: {kind: refl, late_steps: [5, 9]}}"], "then.algorithm"),
    ],
)
def test_what_refl_climbs_is_no_held_out_verifier(overrides: list[str], key: str) -> None:
    held_out = "panel={reward: {kind: differentiable}}"
    given = ["learner.text_learning_rate=1.0e-5"] if key == "then.algorithm" else ["learner={}"]
    with pytest.raises(ConfigError, match=rf"panel\.reward is {re.escape(key)}\.reward_model, which ReFL climbs"):
        quickstart(held_out, *overrides, *given)
    quickstart("panel={reward: {kind: differentiable, path: /another}}", *overrides, *given)


def test_another_score_of_the_same_detector_and_another_model_are_held_out() -> None:
    lenient = "reward={kind: geneval, detector: shapes, score: geneval}"
    strict = quickstart(lenient, "panel={reward: {kind: geneval, detector: shapes, score: strict}}")
    assert [where for where, _ in judges(strict)] == ["reward", "panel.reward"]
    other = quickstart(lenient, "panel={reward: {kind: differentiable}}").panel
    assert other is not None
    assert other.reward is not None
    assert other.reward.kind == "differentiable"


@pytest.mark.parametrize(
    "threshold", ["grid_artefact: 1", "diversity: 1", "diversity: 0", "velocity_rms: 0.9", "thought_tokens: 1", "gap: 0"]
)
def test_thresholds_that_the_start_itself_would_cross_are_refused(threshold: str) -> None:
    with pytest.raises(ConfigError, match=rf"panel\.thresholds\.{threshold.split(':')[0]}: Input should be"):
        quickstart(f"panel={{thresholds: {{{threshold}}}}}")


def test_null_is_no_threshold_and_one_picture_no_group() -> None:
    config = quickstart("panel={thresholds: {saturation: null}}").panel
    assert config is not None
    assert config.thresholds.saturation is None
    assert config.thresholds.gap == PanelConfig().thresholds.gap
    with pytest.raises(ConfigError, match=r"panel\.images_per_prompt: Input should be greater than or equal to 2"):
        quickstart("panel={images_per_prompt: 1}")
