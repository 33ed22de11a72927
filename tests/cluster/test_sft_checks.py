"""What `unigrpo validate` and `unigrpo sft` find of a fine-tuning config before anything starts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.preflight import prepare_sft, resolved
from configs.load import ConfigError, load
from configs.schema import SftConfig
from tests.cluster.seeing import SEEING, save_seeing_model, write_examples

WITHOUT_EYES = ("learner.trains=[text, generation]", "learner.vision_learning_rate=1e-6")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that sees, one that does not, and data."""
    folder = tmp_path_factory.mktemp("sft")
    save_seeing_model(folder / "model")
    save_seeing_model(folder / "blind", replace(SEEING, vision=None))
    write_examples(folder)
    return folder


def config_of(folder: Path, *overrides: str) -> SftConfig:
    given = [f"start.path={folder}/model", f"data.path={folder}/data.jsonl", "data.longest_side=null"]
    config = load(Path("configs/bagel_sft.yaml"), [*given, *overrides])
    assert isinstance(config, SftConfig)
    return config


def validate(config: SftConfig) -> list[str]:
    return list(resolved(config))


@pytest.mark.parametrize("check", [validate, prepare_sft])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.longest_side=36", "data.longest_side: a painting's height is 36 pixels; allowed are multiples of 8 up to 40"),
        ("data.longest_side=48", "data.longest_side: a painting's height is 48 pixels"),
        ("start.path=/nowhere", "start.path is /nowhere, which does not exist"),
        ("start.path={folder}", "start.path: "),
        ("start.path={folder}/blind", "learner.trains is ['text', 'generation', 'vision'], but the model of start.path has no"),
        ("data.path={folder}/none.jsonl", "data.path is {folder}/none.jsonl, which does not exist"),
        ("data.path={folder}/0.png", "data.path: {folder}/0.png is not in order:\n  {folder}/0.png:1: not valid JSON ("),
    ],
)
def test_validating_and_fine_tuning_find_the_same(
    folder: Path, check: Callable[[SftConfig], Any], override: str, message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        check(config_of(folder, override.format(folder=folder)))
    assert message.format(folder=folder) in str(raised.value)


def test_a_model_without_eyes_is_given_no_pictures(folder: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        prepare_sft(config_of(folder, f"start.path={folder}/blind", *WITHOUT_EYES))
    assert str(raised.value).startswith(
        f"data.path: {folder}/data.jsonl is not in order:\n  {folder}/data.jsonl:4: source_image is given, but the model has "
        f"no vision tower; leave it out, or start from a model that sees\n  {folder}/data.jsonl:5: source_image"
    )


def data_of(folder: Path, tmp_path: Path, *overrides: str, **line: str) -> SftConfig:
    """A config over one line."""
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"image": str(folder / "0.png"), **line}) + "\n", encoding="utf-8")
    return config_of(folder, f"data.path={path}", *overrides)


def test_an_example_of_just_as_many_positions_as_the_model_has_and_one_more(folder: Path, tmp_path: Path) -> None:
    room = 512 - 1 - 2  # the painting, bos and eos; a digit is one token
    assert len(prepare_sft(data_of(folder, tmp_path, prompt="7" * room))) == 1
    with pytest.raises(ConfigError, match=r"data.jsonl:1: the example takes 513 positions, but the model has 512; shorten"):
        prepare_sft(data_of(folder, tmp_path, prompt="7" * (room + 1)))
    source = {"source_image": str(folder / "1.png")}
    assert len(prepare_sft(data_of(folder, tmp_path, prompt="7" * (room - 2), **source))) == 1
    with pytest.raises(ConfigError, match="takes 513 positions"):
        prepare_sft(data_of(folder, tmp_path, prompt="7" * (room - 1), **source))


def test_a_thought_brings_the_system_prompt_with_it(folder: Path, tmp_path: Path) -> None:
    thinking = data_of(folder, tmp_path, prompt="7" * 400, thought="1")
    with pytest.raises(ConfigError, match=r"the example takes [0-9]+ positions"):
        prepare_sft(thinking)
    silent = thinking.model_copy(update={"data": thinking.data.model_copy(update={"system_prompt": ""})})
    assert len(prepare_sft(silent)) == 1


def test_special_tokens_in_a_text_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.jsonl:1: thought: the special token <\|im_end\|> must not stand in a text"):
        prepare_sft(data_of(folder, tmp_path, prompt="a", thought="one <|im_end|> two"))
    thinking = data_of(folder, tmp_path, prompt="a", thought="one")
    spoilt = thinking.model_copy(update={"data": thinking.data.model_copy(update={"system_prompt": "<|vision_start|>"})})
    with pytest.raises(ConfigError, match=r"data.jsonl:1: data.system_prompt: the special token <\|vision_start\|> must not"):
        prepare_sft(spoilt)
    assert len(prepare_sft(data_of(folder, tmp_path, prompt="a", thought="<think> one < two | im_end"))) == 1


def test_thoughts_alone_are_learned_from_where_there_are_some(folder: Path, tmp_path: Path) -> None:
    text = ("noise_draws=4", "learner={trains: [text]}")
    assert len(prepare_sft(config_of(folder, *text))) == 6
    with pytest.raises(ConfigError, match=r"learns from thoughts alone, but data.path .*/data.jsonl holds none; add gen"):
        prepare_sft(data_of(folder, tmp_path, *text, prompt="a"))


def test_words_that_a_tokenizer_does_not_know_are_named_with_their_line(folder: Path, tmp_path: Path) -> None:
    shapes = data_of(folder, tmp_path, "start.path=bundled:shapes", *WITHOUT_EYES, prompt="a zebra")
    with pytest.raises(ConfigError, match=r"data.jsonl:1: prompt: the tokenizer does not know 'zebra' in 'a zebra'"):
        prepare_sft(shapes)


def test_what_a_config_comes_to_is_said_as_far_as_it_is_given(folder: Path) -> None:
    assert validate(config_of(folder)) == [
        "1000 updates of 32 examples with 1 noise draws each",
        "6 examples, 3 with a thought, 3 with a source picture; each is seen 5333 times",
    ]
    assert validate(config_of(folder, "start.path=null")) == ["1000 updates of 32 examples with 1 noise draws each"]
    assert len(validate(config_of(folder, "data={kind: shapes}"))) == 1
    with pytest.raises(ConfigError, match=r"^start\.path, data\.path still to be given; set it in the file or as an override$"):
        prepare_sft(config_of(folder, "start.path=null", "data.path=null"))
