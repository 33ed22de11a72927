"""What a config may ask of guidance, and where."""

from pathlib import Path

import pytest

from configs.algorithms import UniGrpo
from configs.guidance import Guidance
from configs.load import QUICKSTART, ConfigError, load
from configs.schema import TrainConfig


def error_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(QUICKSTART, overrides)
    return str(raised.value)


def test_evaluations_are_unguided_unless_they_say_otherwise_and_then_as_bagels_demo() -> None:
    plain, guided = load(QUICKSTART), load(QUICKSTART, ["evaluation.guidance={}"])
    assert isinstance(plain, TrainConfig)
    assert isinstance(guided, TrainConfig)
    assert plain.evaluation.guidance is None
    assert guided.evaluation.guidance == Guidance(
        text_scale=4.0, image_scale=1.0, interval=(0.4, 1.0), renorm="global", renorm_min=0.0
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("text_scale=0.5", "evaluation.guidance.text_scale: Input should be greater than or equal to 1 (given: 0.5)"),
        ("image_scale=0", "evaluation.guidance.image_scale: Input should be greater than or equal to 1 (given: 0)"),
        ("renorm_min=2", "evaluation.guidance.renorm_min: Input should be less than or equal to 1 (given: 2)"),
        ("interval=[0, 1.5]", "evaluation.guidance.interval.1: Input should be less than or equal to 1 (given: 1.5)"),
        ("interval=[1, 0.4]", "evaluation.guidance: interval is (1.0, 0.4], which holds no time"),
        ("renorm=batch", "evaluation.guidance.renorm: Input should be 'global', 'channel' or 'text_channel' (given: 'batch')"),
        ("text_scal=2", "evaluation.guidance.text_scal: unknown key; did you mean text_scale?"),
    ],
)
def test_impossible_values_are_named(override: str, message: str) -> None:
    assert message in error_of("evaluation.guidance={}", f"evaluation.guidance.{override}")


def test_an_image_scale_without_effect_is_refused() -> None:
    message = error_of("evaluation.guidance={text_scale: 1, image_scale: 2}")
    assert "evaluation.guidance: image_scale is 2.0, but text_scale 1 switches off all guidance" in message


def test_training_is_guided_by_an_objective_with_a_flow_term_or_not_at_all() -> None:
    config = load(QUICKSTART, ["algorithm.guidance={text_scale: 2}"])
    assert isinstance(config, TrainConfig)
    assert isinstance(config.algorithm, UniGrpo)
    assert config.algorithm.guidance == Guidance(text_scale=2.0)
    assert config.evaluation.guidance is None
    for path in ("sampler", "rollout"):
        assert f"{path}.guidance: unknown key" in error_of(f"{path}.guidance={{}}")
    with pytest.raises(ConfigError, match=r"algorithm\.guidance: unknown key"):
        load(Path("configs/shapes/fpo.yaml"), ["algorithm.guidance={}"])
