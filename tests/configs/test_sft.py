"""What fine-tuning may start from, imitate and train."""

from pathlib import Path
from typing import Any

import pytest

from configs.load import ConfigError, check_files, load, parse, start_folder, still_to_be_given
from configs.schema import SftConfig

PRESET = Path("configs/bagel_sft.yaml")
NEW: dict[str, Any] = {"task": "sft", "steps": 1, "run_dir": "run"}
GIVEN = NEW | {"start": {"kind": "checkpoint"}}


def fine_tuning(values: dict[str, Any]) -> SftConfig:
    config = parse(dict(values), source="test")
    assert isinstance(config, SftConfig)
    return config


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("start", {"architecture": {"num_heads": 3}}, "hidden_size is 128, .*num_heads=3 heads .*; make it a multiple of 12"),
        ("start", {"architecture": {"hidden_size": 20}}, "hidden_size is 20, .* even .*; make it a multiple of 8"),
        (
            "start",
            {"architecture": {"hidden_size": 6, "num_heads": 1, "num_key_value_heads": 1}},
            "start.architecture: hidden_size is 6, .*; make it a multiple of 4",
        ),
        ("start", {"architecture": {"num_key_value_heads": 3}}, "num_heads is 4, which num_key_value_heads=3 does not divide"),
        ("start", {"kind": "checkpoint", "architecture": {}}, "start.architecture: unknown key; known here: kind, path"),
        ("start", {"kind": "bundled"}, "start.kind: give one of new, checkpoint"),
        ("data", {"kind": "file", "wrong_plans": 0.1}, "data.wrong_plans: unknown key; known here: kind, longest_side, path"),
        (
            "data",
            {"kind": "file", "path": "a.jsonl"},
            "data.kind is file, but start.kind is new: .* give start.kind checkpoint and start.path",
        ),
        ("learner", {"trains": ["text", "vision"]}, "but start.kind is new: a model made from nothing has no vision tower"),
        ("learner", {"trains": ["vision"]}, "leaves no term of the objective; add text, generation or both"),
        ("learner", {"trains": []}, r"learner.trains is \[\]; name at least one of text, generation, vision, each once"),
        ("learner", {"trains": ["text", "text"]}, "name at least one of text, generation, vision, each once"),
        ("dropout", {"text": 1.1}, "dropout.text: Input should be less than or equal to 1"),
        ("timestep_shift", 0, "timestep_shift: Input should be greater than 0"),
        ("learner", {"text_micro_batch": 4}, "learner.text_micro_batch is 4, which has no effect with task sft"),
        ("learner", {"bucket_bytes": 65536}, "learner.bucket_bytes is 65536, which has no effect with task sft"),
    ],
)
def test_what_no_model_has_and_keys_without_effect_are_refused(section: str, value: object, message: str) -> None:
    if section == "start" and isinstance(value, dict):
        value = {"kind": "new"} | value
    with pytest.raises(ConfigError, match=message):
        fine_tuning(NEW | {section: value})


def test_a_users_data_leaves_two_paths_open_which_must_exist(tmp_path: Path) -> None:
    assert still_to_be_given(load(PRESET)) == ["start.path", "data.path"]
    given = load(PRESET, [f"start.path={tmp_path}", f"data.path={tmp_path}/none.jsonl"])
    assert still_to_be_given(given) == []
    with pytest.raises(ConfigError, match=r"^data\.path is .*/none\.jsonl, which does not exist\ngive a path that exists$"):
        check_files(given)


def test_fine_tuning_of_bagel_is_the_reference_s() -> None:
    config = load(PRESET)
    assert isinstance(config, SftConfig)
    dropout, learner = config.dropout, config.learner
    assert (dropout.text, dropout.latents, dropout.patches) == (0.1, 0.3, 0.3)
    assert (config.noise_draws, config.timestep_shift, config.flow_weight) == (1, 1.0, 1.0)
    assert learner.trains == ("text", "generation", "vision")
    rates = (learner.text_learning_rate, learner.generation_learning_rate, learner.vision_learning_rate)
    assert rates == (2e-5, 2e-5, 2e-5)
    assert (learner.betas, learner.eps, learner.weight_decay, learner.max_grad_norm) == ((0.9, 0.95), 1e-15, 0.0, 1.0)


def test_a_run_starts_from_what_it_is_given_or_from_what_it_makes(tmp_path: Path) -> None:
    assert start_folder(fine_tuning(NEW | {"run_dir": tmp_path})) == tmp_path / "start"
    assert start_folder(fine_tuning(NEW | {"start": {"kind": "checkpoint", "path": tmp_path}})) == tmp_path


def test_keys_of_the_flow_loss_are_refused_where_it_is_left_out() -> None:
    changes = {"noise_draws": 1, "timestep_shift": 3, "flow_weight": 2}
    with pytest.raises(ConfigError) as raised:
        fine_tuning(GIVEN | changes | {"learner": {"trains": ["text"]}})
    assert (
        "noise_draws is 1, timestep_shift is 3.0, flow_weight is 2.0: of no use while learner.trains is ['text']; add "
        "generation there, or leave noise_draws=4, timestep_shift=1.0, flow_weight=1.0"
    ) in str(raised.value)
    fine_tuning(GIVEN | changes | {"learner": {"trains": ["generation"]}})


@pytest.mark.parametrize(
    ("group", "trains", "trained"),
    [
        ("text", ["generation", "vision"], "generation and vision alone are trained"),
        ("generation", ["text"], "text alone is trained"),
        ("vision", None, "generation and text alone are trained"),
    ],
)
def test_a_rate_of_what_is_not_trained_is_refused(group: str, trains: list[str] | None, trained: str) -> None:
    learner = {"trains": trains, f"{group}_learning_rate": 2e-3}
    with pytest.raises(ConfigError, match=f"learner.{group}_learning_rate is 0.002: of no use while {trained}; leave it out"):
        fine_tuning(GIVEN | {"learner": learner})
    fine_tuning(GIVEN | {"learner": learner | {"trains": ["text", "generation", "vision"]}})


@pytest.mark.parametrize(
    ("given", "trained"),
    [
        (None, ("text", "generation")),
        (["text"], ("text",)),
        (["generation"], ("generation",)),
        (["text", "vision"], ("text", "vision")),
        (["generation", "vision"], ("generation", "vision")),
    ],
)
def test_what_is_trained_is_text_and_generation_or_what_is_named(given: list[str] | None, trained: tuple[str, ...]) -> None:
    assert fine_tuning(GIVEN | {"learner": {"trains": given}}).trains == trained
