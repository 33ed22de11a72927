"""Sections of a training run that must fit each other, and what they come to together."""

from pathlib import Path
from typing import Any

import pytest

from configs.algorithms import Refl
from configs.load import ConfigError, check_files, load, parse, reward_models, still_to_be_given
from configs.schema import TrainConfig
from configs.verifiers import RewardModelChoice

TRAIN: dict[str, Any] = {"steps": 1, "run_dir": "run", "prompts": {"kind": "shapes"}}


def training(**sections: Any) -> TrainConfig:
    """A config of defaults but for some sections."""
    config = parse(TRAIN | sections, source="test")
    assert isinstance(config, TrainConfig)
    return config


def error_of(**sections: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        training(**sections)
    return str(raised.value)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"sampler": {"num_points": 5}},
            "algorithm.kind unigrpo records denoising steps before 5, but 5 points make 4 steps, of which it can take the "
            "first 3; lower the end of its range or raise sampler.num_points",
        ),
        (
            {"algorithm": {"kind": "refl", "late_steps": [20, 25]}},
            "algorithm.kind refl records denoising steps before 25, but 25 points make 24 steps, of which it can take",
        ),
        (
            {"algorithm": {"kind": "text_grpo"}, "then": {"steps": 1, "algorithm": {"kind": "refl", "late_steps": [20, 25]}}},
            "then.algorithm.kind refl records denoising steps before 25",
        ),
        (
            {"rollout": {"thinks": False}},
            "algorithm.kind is unigrpo, which learns from thoughts, but rollout.thinks is false; let the policy think, or take "
            "an objective of paintings alone",
        ),
        (
            {
                "rollout": {"thinks": False},
                "algorithm": {"kind": "refl"},
                "then": {"steps": 1, "algorithm": {"kind": "text_grpo"}},
            },
            "then.algorithm.kind is text_grpo, which learns from thoughts, but rollout.thinks is false",
        ),
        ({"rollout": {"group_size": 1}}, "rollout.group_size: Input should be greater than or equal to 2 (given: 1)"),
        (
            {"rollout": {"images_per_thought": 5}},
            "rollout.group_size is 24, which rollout.images_per_thought=5 does not divide; make it a multiple",
        ),
        (
            {"rollout": {"thinks": False, "images_per_thought": 2}, "algorithm": {"kind": "flow_grpo"}},
            "rollout.images_per_thought is 2, but rollout.thinks is false; leave it 1 where nothing is thought",
        ),
        (
            {"rollout": {"images_per_thought": 24}},
            "rollout.images_per_thought is 24, all of the group: one thought alone has nothing to be compared with; lower it",
        ),
        (
            {"rollout": {"prompts_per_piece": 3}},
            "rollout.prompts_per_step is 32, which pieces of rollout.prompts_per_piece=3 do not divide",
        ),
        (
            {"algorithm": {"kind": "unigrpo", "mini_batches": 3}},
            "rollout.prompts_per_step is 32, which algorithm.mini_batches=3 does not divide; make prompts_per_step a multiple",
        ),
        (
            {"algorithm": {"kind": "refl"}, "then": {"steps": 1, "algorithm": {"kind": "text_grpo", "mini_batches": 3}}},
            "rollout.prompts_per_step is 32, which then.algorithm.mini_batches=3 does not divide",
        ),
        ({"learner": {"num_ranks": 7}}, "a mini-batch holds 768 samples, which 7 learner ranks cannot share evenly"),
        (
            {"learner": {"num_ranks": 9}, "rollout": {"images_per_thought": 8, "prompts_per_step": 3}},
            None,
        ),
        (
            {"learner": {"num_ranks": 18}, "rollout": {"images_per_thought": 8, "prompts_per_step": 3}},
            "a mini-batch holds 9 samples, which 18 learner ranks cannot share evenly; make prompts_per_step / mini_batches * "
            "group_size / images_per_thought a multiple of learner.num_ranks",
        ),
        (
            {"reasoner": {"max_model_len": 1024}},
            "reasoner.max_model_len is 1024, which leaves no room for a prompt beside thoughts of rollout.max_thought",
        ),
        ({"learner": {"zero_stage": 0, "dtype": "bfloat16"}}, "keeps no float32 masters; use stage 1, 2 or 3"),
        ({"learner": {"betas": [0.9, 1]}}, "learner.betas.1: Input should be less than 1 (given: 1)"),
        ({"learner": {"betas": [-0.1, 0.99]}}, "learner.betas.0: Input should be greater than or equal to 0 (given: -0.1)"),
        ({"prompts": {"kind": "shapes", "split": "test"}}, "prompts.split: Input should be 'train', 'tuning' or 'held_out'"),
        ({"then": {"steps": 0, "algorithm": {"kind": "refl"}}}, "then.steps: Input should be greater than 0 (given: 0)"),
        ({"then": {"steps": 1}}, "then.algorithm: Field required"),
    ],
)
def test_sections_must_fit_each_other(sections: dict[str, Any], message: str | None) -> None:
    if message is None:
        training(**sections)
    else:
        assert message in error_of(**sections)


@pytest.mark.parametrize(
    ("kind", "trains", "allowed"),
    [
        ("unigrpo", ["text", "generation"], True),
        ("unigrpo", ["text", "generation", "vision"], True),
        ("text_grpo", ["vision", "text"], True),
        ("flow_grpo", ["generation"], True),
        ("flow_grpo", ["generation", "vision"], False),
        ("unigrpo", ["generation"], False),
        ("text_grpo", ["text", "generation"], False),
    ],
)
def test_a_method_trains_its_own_experts_and_where_it_learns_from_thoughts_the_tower(
    kind: str, trains: list[str], allowed: bool
) -> None:
    sections = {"algorithm": {"kind": kind}, "learner": {"trains": trains}}
    if allowed:
        assert training(**sections).trains == tuple(trains)
    else:
        own = list(training(algorithm={"kind": kind}).trains)
        assert (
            f"learner.trains is {trains}, but algorithm.kind {kind} trains {own}; leave learner.trains out, or, of a run of "
            "one stage that learns from thoughts, add vision"
        ) in error_of(**sections)


def test_stages_of_a_run_train_what_their_objectives_have_terms_for() -> None:
    then = {"steps": 2, "algorithm": {"kind": "text_grpo"}}
    rates = {"text_learning_rate": 1e-4, "generation_learning_rate": 1e-4}
    assert training(algorithm={"kind": "refl"}, then=then, learner=rates).trains == ("generation",)
    assert "learner.trains is ['generation'], but" in error_of(
        algorithm={"kind": "refl"}, then=then, learner={"trains": ["generation"]}
    )


@pytest.mark.parametrize(
    ("kind", "rate", "message"),
    [
        ("flow_grpo", "text", "learner.text_learning_rate is 0.002: of no use while generation alone is trained; leave it out"),
        ("text_grpo", "generation", "of no use while text alone is trained; leave it out"),
        ("unigrpo", "vision", "of no use while generation and text alone are trained; leave it out"),
    ],
)
def test_a_rate_of_what_is_not_trained_is_refused(kind: str, rate: str, message: str) -> None:
    assert message in error_of(algorithm={"kind": kind}, learner={f"{rate}_learning_rate": 2e-3})


def test_k_paintings_share_a_thought() -> None:
    assert training().num_thoughts == 24
    assert training(rollout={"images_per_thought": 3}).num_thoughts == 8
    assert training(rollout={"thinks": False}, algorithm={"kind": "refl"}).num_thoughts == 24
    assert training(rollout={"images_per_thought": 24}, algorithm={"kind": "flow_grpo"}).num_thoughts == 1


@pytest.mark.parametrize(
    ("rollout", "evaluation", "thinks"), [(True, None, True), (False, None, False), (True, False, False), (False, True, True)]
)
def test_evaluations_think_as_training_does_unless_they_say_otherwise(
    rollout: bool, evaluation: bool | None, thinks: bool
) -> None:
    config = training(rollout={"thinks": rollout}, evaluation={"thinks": evaluation}, algorithm={"kind": "flow_grpo"})
    assert config.evaluation_thinks == thinks


def test_refls_reward_model_is_a_file_like_others_in_both_stages(tmp_path: Path) -> None:
    open_model = {"kind": "refl", "reward_model": {"model": "internvl"}}
    config = training(algorithm=open_model, model={"path": "bundled:shapes"}, reward={"kind": "random"})
    assert still_to_be_given(config) == ["algorithm.reward_model.path"]
    second = {"steps": 1, "algorithm": open_model}
    config = training(algorithm={"kind": "text_grpo"}, then=second, model={"path": "bundled:shapes"}, reward={"kind": "random"})
    assert still_to_be_given(config) == ["then.algorithm.reward_model.path"]
    assert list(reward_models(config)) == [("then.algorithm.reward_model", RewardModelChoice(model="internvl"))]
    gone = {"kind": "refl", "reward_model": {"model": "internvl", "path": str(tmp_path / "gone")}}
    config = training(algorithm=gone, model={"path": str(tmp_path)}, reward={"kind": "random"})
    assert still_to_be_given(config) == []
    with pytest.raises(ConfigError, match=r"^algorithm\.reward_model\.path is .*/gone, which does not exist"):
        check_files(config)


def test_the_bundled_reward_model_need_not_be_given() -> None:
    config = load(Path("configs/shapes/refl.yaml"))
    assert isinstance(config, TrainConfig)
    assert isinstance(config.algorithm, Refl)
    assert still_to_be_given(config) == []
