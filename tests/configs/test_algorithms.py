"""The methods: the keys each has, what it trains and records, and values that make none."""

from typing import Any

import pytest

from configs.algorithms import Window
from configs.load import ConfigError, parse
from configs.schema import TrainConfig

SHARED = {"kind", "ppo_epochs", "mini_batches"}
TEXT = {"text_clip", "text_kl"}
FLOW = {"flow_weight", "flow_clip", "ratio_norm", "regulariser", "window", "guidance"}
FPO = {"flow_weight", "flow_clip", "flow_draws", "elbo_clamp"}


def training(algorithm: dict[str, Any]) -> TrainConfig:
    """A config of defaults but for its method."""
    config = parse({"steps": 1, "run_dir": "run", "prompts": {"kind": "shapes"}, "algorithm": algorithm}, source="test")
    assert isinstance(config, TrainConfig)
    return config


def error_of(algorithm: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as raised:
        training(algorithm)
    return str(raised.value)


@pytest.mark.parametrize(
    ("kind", "keys", "trains"),
    [
        ("unigrpo", SHARED | TEXT | FLOW | {"context_gradient"}, ("text", "generation")),
        ("flow_grpo", SHARED | FLOW, ("generation",)),
        ("text_grpo", SHARED | TEXT, ("text",)),
        ("fpo", SHARED | FPO, ("generation",)),
        ("uni_fpo", SHARED | TEXT | FPO | {"context_gradient"}, ("text", "generation")),
        ("refl", {"kind", "reward_model", "late_steps", "mini_batches"}, ("generation",)),
    ],
)
def test_every_method_has_the_keys_of_its_terms_and_trains_their_experts(
    kind: str, keys: set[str], trains: tuple[str, ...]
) -> None:
    config = training({"kind": kind})
    assert set(type(config.algorithm).model_fields) == keys
    assert config.trains == trains
    strange = (TEXT | FLOW | FPO | {"context_gradient", "late_steps", "ppo_epochs"}) - keys
    for key in strange:
        assert f"algorithm.{key}: unknown key" in error_of({"kind": kind, key: 1})


@pytest.mark.parametrize(
    ("kind", "window", "updates"),
    [
        ("unigrpo", Window(range=(0, 5), size=3, noise_level=0.8), 2),
        ("flow_grpo", Window(range=(0, 5), size=3, noise_level=0.8), 2),
        ("text_grpo", None, 2),
        ("fpo", None, 2),
        ("uni_fpo", None, 2),
        ("refl", Window(range=(18, 24), size=1, noise_level=0), 1),
    ],
)
def test_every_method_says_what_is_recorded_and_how_often_it_updates(kind: str, window: Window | None, updates: int) -> None:
    algorithm = training({"kind": kind}).algorithm
    assert algorithm.window == window
    assert algorithm.updates == updates
    assert training({"kind": kind, "mini_batches": 4}).algorithm.updates == 4 * updates


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ({"kind": "grpo"}, "algorithm.kind: did you mean unigrpo?"),
        ({"ppo_epochs": 1}, "algorithm.kind: give one of unigrpo, flow_grpo, text_grpo, fpo, uni_fpo, refl"),
        ({"kind": "unigrpo", "text_clip": [1, 0.28]}, "algorithm.text_clip.0: Input should be less than 1 (given: 1)"),
        ({"kind": "unigrpo", "text_clip": [0, 0.28]}, "algorithm.text_clip.0: Input should be greater than 0 (given: 0)"),
        ({"kind": "unigrpo", "regulariser": {"kind": "velocity_mse", "wight": 1}}, "unknown key; did you mean weight?"),
        ({"kind": "unigrpo", "regulariser": {"kind": "none", "weight": 1}}, "algorithm.regulariser.weight: unknown key"),
        ({"kind": "unigrpo", "regulariser": {"kind": "latent_kl"}}, "algorithm.regulariser.weight: Field required"),
        ({"kind": "unigrpo", "regulariser": {"kind": "velocity"}}, "algorithm.regulariser.kind: did you mean velocity_mse?"),
        (
            {"kind": "unigrpo", "window": {"nois_level": 1}},
            "algorithm.window.nois_level: unknown key; did you mean noise_level?",
        ),
        (
            {"kind": "flow_grpo", "window": {"size": 6}},
            "window.size is 6, but the range [0, 5) holds 5 steps; widen window.range or shrink window.size",
        ),
        (
            {"kind": "flow_grpo", "window": {"noise_level": 0}},
            "window.noise_level is 0, which leaves the flow term no density; give a positive one",
        ),
        (
            {"kind": "flow_grpo", "window": {"placement": "group"}},
            "algorithm.window.placement: Input should be 'step' or 'sample'",
        ),
        (
            {"kind": "flow_grpo", "guidance": {"text_scale": 1}},
            "guidance has text_scale 1.0 and image_scale 1.0, but training is guided away from no text alone: give a text",
        ),
        (
            {"kind": "unigrpo", "guidance": {"text_scale": 2, "image_scale": 1.5}},
            "guidance has text_scale 2.0 and image_scale 1.5, but training is guided away from no text alone",
        ),
        ({"kind": "fpo", "flow_clip": 1}, "algorithm.flow_clip: Input should be less than 1 (given: 1)"),
        ({"kind": "fpo", "elbo_clamp": 0}, "algorithm.elbo_clamp: Input should be greater than 0 (given: 0)"),
        ({"kind": "refl", "late_steps": [5, 5]}, "late_steps is [5, 5), which holds no step; give two numbers that rise"),
        (
            {"kind": "refl", "reward_model": {"model": "clip"}},
            "algorithm.reward_model.model: Input should be 'shapes' or 'intern",
        ),
    ],
)
def test_impossible_objectives_are_named_with_the_way_out(algorithm: dict[str, Any], message: str) -> None:
    assert message in error_of(algorithm)
