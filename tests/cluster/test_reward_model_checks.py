"""What ReFL's reward model cannot judge is found before Ray starts, in every stage, and matters to training alone."""

from pathlib import Path

import pytest

from cluster.preflight import prepare, prepare_evaluation, resolved
from configs.load import ConfigError, load
from configs.schema import TrainConfig
from unigrpo.prompts import write_prompt_file
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.types import Prompt


def refl(*overrides: str, preset: str = "refl") -> TrainConfig:
    config = load(Path(f"configs/shapes/{preset}.yaml"), ["reward={kind: random}", *overrides])
    assert isinstance(config, TrainConfig)
    return config


def test_a_prompt_in_other_words_is_named(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    other = Prompt(index=8, text="a red circle and blue", metadata={"prompt": "a red circle and blue"})
    write_prompt_file(file, [*shapes_prompts("train")[:8], other])
    prompts = f"prompts={{kind: file, path: {file}}}"
    for check in (lambda config: list(resolved(config)), lambda config: prepare(config, evaluates=False)):
        with pytest.raises(
            ConfigError, match=r"^algorithm\.reward_model cannot judge prompt 9 of prompts: .*'a red circle and blue'"
        ):
            check(refl(prompts))


def test_a_size_that_it_was_not_made_for_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^algorithm\.reward_model cannot judge sampler\.height and sampler\.width: "):
        list(resolved(refl("sampler.width=16")))


def test_the_second_stage_is_checked_too() -> None:
    then = "then={steps: 1, algorithm: {kind: refl, late_steps: [5, 9]}}"
    with pytest.raises(ConfigError, match=r"^then\.algorithm\.reward_model cannot judge sampler\.height"):
        list(resolved(refl(then, "sampler.width=16", "panel=null", preset="text_grpo")))


def test_a_folder_that_holds_none_is_named_and_an_evaluation_does_not_ask(tmp_path: Path) -> None:
    config = refl(f"algorithm.reward_model.path={tmp_path}")
    with pytest.raises(ConfigError, match=r"^algorithm\.reward_model: .* lacks "):
        prepare(config, evaluates=False)
    open_path = refl("algorithm.reward_model={model: internvl}")
    with pytest.raises(ConfigError, match=r"^algorithm\.reward_model\.path still to be given"):
        prepare(open_path, evaluates=False)
    for each in (config, open_path):
        prepare_evaluation(each)
