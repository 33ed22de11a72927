"""What a person who mistypes a config reads."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.load import ConfigError, check_files, dump, load, model_folder, parse, start_folder, still_to_be_given
from configs.reward import Reward
from configs.reward_model import RewardModelConfig
from configs.reward_service import RewardServiceConfig
from configs.schema import Config, FilePrompts, SftConfig, TrainConfig, VelocityMse
from configs.verifiers import ExamReward, GenevalReward, RandomReward

QUICKSTART = Path("configs/quickstart.yaml")


def error_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(QUICKSTART, overrides)
    return str(raised.value)


@pytest.mark.parametrize("path", sorted(Path("configs").rglob("*.yaml")), ids=str)
def test_every_preset_loads_and_survives_a_round_trip(path: Path) -> None:
    config = load(path)
    assert parse(yaml.safe_load(dump(config)), source="dump") == config


COMBINED = "{kind: combined, parts: {geneval: {kind: geneval, %s}, b: {kind: random}}, weights: {geneval: 1, b: 1}}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampler.nois_level=1", "sampler.nois_level: unknown key; did you mean noise_level?"),
        ("algorithm.regulariser.wight=1", "algorithm.regulariser.wight: unknown key; did you mean weight?"),
        ("zzz=1", "zzz: unknown key; known here: "),
        ("rollout.group_size=1", "rollout.group_size: Input should be greater than or equal to 2 (given: 1)"),
        ("sampler.window_size=9", "sampler.window_size is 9, but the range [0, 6) holds 6 steps"),
        ("sampler.num_points=7", "sampler.window_range ends at 6, but 7 points make 6 steps"),
        ("algorithm.mini_batches=3", "algorithm.mini_batches=3 does not divide"),
        ("rollout.prompts_per_piece=3", "rollout.prompts_per_piece=3 do not divide"),
        ("reasoner.max_model_len=48", "leaves no room for a prompt beside thoughts of rollout.max_thought_tokens=48"),
        ("learner={zero_stage: 0, dtype: bfloat16}", "keeps no float32 masters; use stage 1, 2 or 3"),
        ("learner.num_ranks=7", "32 samples, which 7 learner ranks cannot share evenly"),
        ("algorithm.text_clip=[1, 0.28]", "algorithm.text_clip.0: Input should be less than 1 (given: 1)"),
        ("algorithm.text_clip=[0, 0.28]", "algorithm.text_clip.0: Input should be greater than 0 (given: 0)"),
        ("learner.betas=[0.9, 1]", "learner.betas.1: Input should be less than 1 (given: 1)"),
        ("learner.betas=[-0.1, 0.99]", "learner.betas.0: Input should be greater than or equal to 0 (given: -0.1)"),
        ("evaluation.reward={kind: exam, detector: shapes}", "evaluation.reward.detector: unknown key; known here:"),
        (
            "evaluation.reward={kind: examn}",
            "evaluation.reward.kind: did you mean exam?",
        ),
        ("evaluation.reward={detector: shapes}", "evaluation.reward.kind: give one of geneval, random, ocr,"),
        (f"reward={COMBINED % 'detektor: shapes'}", "reward.parts.geneval.detektor: unknown key; did you mean detector?"),
        (f"reward={COMBINED % 'outage: drop'}", "parts.geneval sets outage, which the combined reward decides; set it there"),
        (
            "reward={kind: combined, parts: {a: {kind: ocr}, b: {kind: no}}}",
            "reward.parts.b.kind: give one of geneval, random,",
        ),
        (
            "reward={kind: combined, parts: {a: {kind: ocr}, b: {kind: random}}, weights: {a: 1}}",
            "weights are given for ['a'], but the parts are ['a', 'b']",
        ),
        ("reward={kind: http, remote: {endpoints: ['ftp://x']}}", "endpoint 'ftp://x' is no http(s)://host[:port]"),
        ("reward={kind: http, judge_timeout: 100}", "judge_timeout is 100.0, not above remote.batch_timeout=240.0"),
        ("learner.text_learning_rate=.nan", "should be a finite number"),
        ("algorithm.kind=grop", "'grop'"),
        ("task=trian", "task is 'trian'; allowed are train, sft"),
        ("nonsense", "is not of the form dotted.key=value"),
        ("steps.more=1", "steps is a value, not a section"),
    ],
)
def test_a_bad_value_is_named_with_the_way_out(override: str, message: str) -> None:
    assert message in error_of(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("start.architecture.num_heads=3", "hidden_size is 128, .*num_heads=3 heads .*; make it a multiple of 12"),
        ("start.architecture={hidden_size: 20, num_heads: 4}", "hidden_size is 20, .* even .*; make it a multiple of 8"),
        (
            "start.architecture={hidden_size: 6, num_heads: 1, num_key_value_heads: 1}",
            "start.architecture: hidden_size is 6, .*; make it a multiple of 4",
        ),
        ("start.architecture.num_key_value_heads=3", "num_heads is 4, which num_key_value_heads=3 does not divide"),
        ("start={kind: checkpoint, architecture: {num_heads: 2}}", "start.architecture: unknown key; known here: kind, path"),
        ("start={kind: bundled}", "start.kind: give one of new, checkpoint"),
        ("data={kind: file, wrong_plans: 0.1}", "data.wrong_plans: unknown key; known here: kind, longest_side, path"),
        (
            "data={kind: file, path: a.jsonl}",
            "data.kind is file, but start.kind is new: .* give start.kind checkpoint and start.path",
        ),
        ("learner.trains=[text, generation, vision]", "but start.kind is new: a model made from nothing has no vision tower"),
        ("dropout.text=1.1", "dropout.text: Input should be less than or equal to 1"),
        ("timestep_shift=0", "timestep_shift: Input should be greater than 0"),
        ("learner.text_micro_batch=4", "learner.text_micro_batch is 4, which has no effect with task sft"),
        ("learner.bucket_bytes=65536", "learner.bucket_bytes is 65536, which has no effect with task sft"),
    ],
)
def test_fine_tuning_refuses_what_no_model_has_and_keys_without_effect(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(Path("configs/shapes_sft.yaml"), [override])


def test_fine_tuning_of_a_users_data_leaves_two_paths_open_which_must_exist(tmp_path: Path) -> None:
    preset = Path("configs/bagel_sft.yaml")
    assert still_to_be_given(load(preset)) == ["start.path", "data.path"]
    given = load(preset, [f"start.path={tmp_path}", f"data.path={tmp_path}/none.jsonl"])
    assert still_to_be_given(given) == []
    with pytest.raises(ConfigError, match=r"^data\.path is .*/none\.jsonl, which does not exist\ngive a path that exists$"):
        check_files(given)


def test_fine_tuning_of_bagel_is_the_reference_s() -> None:
    config = load(Path("configs/bagel_sft.yaml"))
    assert isinstance(config, SftConfig)
    dropout, learner = config.dropout, config.learner
    assert (dropout.text, dropout.latents, dropout.patches) == (0.1, 0.3, 0.3)
    assert (config.noise_draws, config.timestep_shift, config.flow_weight) == (1, 1.0, 1.0)
    assert learner.trains == ("text", "generation", "vision")
    rates = (learner.text_learning_rate, learner.generation_learning_rate, learner.vision_learning_rate)
    assert rates == (2e-5, 2e-5, 2e-5)
    assert (learner.betas, learner.eps, learner.weight_decay, learner.max_grad_norm) == ((0.9, 0.95), 1e-15, 0.0, 1.0)


def test_a_run_starts_from_what_it_is_given_or_from_what_it_makes(tmp_path: Path) -> None:
    made = load(Path("configs/shapes_sft.yaml"), [f"run_dir={tmp_path}"])
    assert isinstance(made, SftConfig)
    assert start_folder(made) == tmp_path / "start"
    given = load(Path("configs/bagel_sft.yaml"), [f"start.path={tmp_path}"])
    assert isinstance(given, SftConfig)
    assert start_folder(given) == tmp_path
    bundled = load(QUICKSTART)
    assert isinstance(bundled, TrainConfig)
    assert start_folder(bundled) == model_folder(Path("bundled:shapes"))


def test_relative_paths_start_at_the_current_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    preset = Path("configs/bagel_1024.yaml").absolute()
    monkeypatch.chdir(tmp_path)
    overrides = ["run_dir=runs/x", "model.path=model", "prompts.path=a.jsonl", "evaluation.prompts.path=b.jsonl"]
    config = load(preset, overrides)
    assert isinstance(config, TrainConfig)
    monkeypatch.chdir("/")
    given = (config.prompts, config.evaluation.prompts)
    paths = [config.run_dir, config.model.path, *(prompts.path for prompts in given if isinstance(prompts, FilePrompts))]
    assert paths == [tmp_path / "runs/x", tmp_path / "model", tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    assert parse(yaml.safe_load(dump(config)), source="dump") == config


def test_a_bundled_model_is_no_relative_path() -> None:
    config = load(QUICKSTART)
    assert isinstance(config, TrainConfig)
    assert config.model.path == Path("bundled:shapes")


@pytest.mark.parametrize(
    ("override", "judge"),
    [
        ("evaluation.reward=null", RandomReward()),
        (
            "evaluation.reward={kind: geneval, detector: shapes, num_workers: 2}",
            GenevalReward(detector="shapes", num_workers=2),
        ),
        ("evaluation.reward={kind: exam, model: m}", ExamReward(model="m")),
    ],
)
def test_any_reward_judges_evaluations_and_the_training_reward_where_none_is_named(override: str, judge: Reward) -> None:
    config = load(QUICKSTART, ["reward={kind: random}", override])
    assert isinstance(config, TrainConfig)
    assert config.evaluation_reward == judge


def test_a_key_of_another_variant_is_refused() -> None:
    assert "algorithm.regulariser.weight: unknown key" in error_of("algorithm.regulariser={kind: none, weight: 1.0}")


def test_every_fault_is_named_at_once() -> None:
    message = error_of("sampler.nois_level=1", "rollout.group_size=1")
    assert "nois_level" in message
    assert "group_size" in message


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.yaml does not exist"):
        load(tmp_path / "nowhere.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(ConfigError, match=r"broken.yaml is not YAML"):
        load(broken)


def test_files_that_a_config_names_must_exist(tmp_path: Path) -> None:
    config = load(QUICKSTART, [f"model.path={tmp_path}/none", f"prompts={{kind: file, path: {tmp_path}/none.jsonl}}"])
    with pytest.raises(ConfigError) as raised:
        check_files(config)
    assert f"model.path is {tmp_path}/none, which does not exist" in str(raised.value)
    assert f"prompts.path is {tmp_path}/none.jsonl, which does not exist" in str(raised.value)


def test_what_a_preset_leaves_open_is_listed_and_no_error() -> None:
    config = load(Path("configs/bagel_1024.yaml"))
    check_files(config)
    assert still_to_be_given(config) == [
        "model.path",
        "prompts.path",
        "evaluation.prompts.path",
        "reward.detector_path",
        "reward.clip_path",
    ]


def test_the_1024_preset_holds_table_3() -> None:
    config = load(Path("configs/bagel_1024.yaml"))
    assert isinstance(config, TrainConfig)
    sampler, algorithm, learner = config.sampler, config.algorithm, config.learner
    assert (sampler.num_points, sampler.shift, sampler.noise_level) == (25, 3.0, 0.8)
    assert (sampler.window_range, sampler.window_size, sampler.height, sampler.width) == ((0, 5), 3, 1024, 1024)
    assert (config.rollout.prompts_per_step, config.rollout.group_size) == (32, 24)
    assert (algorithm.ppo_epochs, algorithm.mini_batches, algorithm.flow_weight) == (2, 1, 1.0)
    assert (algorithm.text_kl, algorithm.flow_clip, algorithm.regulariser) == (0.0, 1e-6, VelocityMse(weight=1.5e-5))
    assert (algorithm.text_clip, algorithm.context_gradient) == ((0.20, 0.28), "full")
    assert (learner.text_learning_rate, learner.generation_learning_rate) == (1e-6, 3e-5)
    assert config.evaluation.num_points == 50


def test_the_512_preset_is_the_1024_one_on_fewer_gpus() -> None:
    small, large = load(Path("configs/bagel_512.yaml")), load(Path("configs/bagel_1024.yaml"))
    assert isinstance(small, TrainConfig)
    assert isinstance(large, TrainConfig)
    assert small.algorithm == large.algorithm
    assert small.evaluation == large.evaluation
    assert small.sampler == large.sampler.model_copy(update={"height": 512, "width": 512})
    gpus = {
        each: role.placement.num_gpus * role.num_workers for each, role in vars(small).items() if hasattr(role, "num_workers")
    }
    assert sum(gpus.values()) + small.learner.num_ranks == 16


@pytest.mark.parametrize("preset", ["quickstart", "bagel_sft"])
def test_training_the_vision_tower_alone_is_refused(preset: str) -> None:
    with pytest.raises(ConfigError, match="leaves no term of the objective; add text, generation or both"):
        load(Path(f"configs/{preset}.yaml"), ["learner.trains=[vision]"])


TRAIN: dict[str, Any] = {"steps": 1, "run_dir": "run", "prompts": {"kind": "shapes"}, "learner": {"num_ranks": 1}}
SFT: dict[str, Any] = {"task": "sft", "steps": 1, "run_dir": "run", "start": {"kind": "checkpoint"}}


def parsed(task: dict[str, Any], trains: list[str], changes: dict[str, Any]) -> Config:
    """A config of defaults but for what is trained and some changes, by section."""
    return parse(task | {"learner": {"trains": trains}} | changes, source="test")


@pytest.mark.parametrize(
    ("trains", "algorithm", "given", "way_out"),
    [
        (["generation"], {"text_kl": 0.1}, "text_kl is 0.1", "text there, or leave algorithm.text_kl=0.0"),
        (["generation", "vision"], {"text_clip": [0.1, 0.2]}, "text_clip is [0.1, 0.2]", "text there, or leave "),
        (["text"], {"flow_weight": 2}, "flow_weight is 2.0", "generation there, or leave algorithm.flow_weight=1.0"),
        (["text", "vision"], {"ratio_norm": False}, "ratio_norm is False", "generation there, or leave "),
        (
            ["text"],
            {"flow_clip": 1e-4, "regulariser": {"kind": "none"}},
            "flow_clip is 0.0001, algorithm.regulariser is {'kind': 'none'}",
            "generation there, or leave algorithm.flow_clip=1e-06, "
            "algorithm.regulariser={'kind': 'velocity_mse', 'weight': 1.5e-05}",
        ),
        (["text"], {"context_gradient": "stop"}, "context_gradient is stop", "generation there, or leave "),
        (["generation"], {"context_gradient": "stop"}, "context_gradient is stop", "text there, or leave "),
        (["generation", "vision"], {"context_gradient": "stop"}, "context_gradient is stop", "text there, or leave "),
    ],
)
def test_keys_of_a_term_that_is_left_out_are_refused(
    trains: list[str], algorithm: dict[str, Any], given: str, way_out: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        parsed(TRAIN, trains, {"algorithm": algorithm})
    assert f"algorithm.{given}: of no use while learner.trains is {trains}; add {way_out}" in str(raised.value)
    parsed(TRAIN, ["text", "generation"], {"algorithm": algorithm})


def test_keys_of_the_flow_loss_are_refused_where_fine_tuning_leaves_it_out() -> None:
    changes = {"noise_draws": 1, "timestep_shift": 3, "flow_weight": 2}
    with pytest.raises(ConfigError) as raised:
        parsed(SFT, ["text"], changes)
    assert (
        "noise_draws is 1, timestep_shift is 3.0, flow_weight is 2.0: of no use while learner.trains is ['text']; add "
        "generation there, or leave noise_draws=4, timestep_shift=1.0, flow_weight=1.0"
    ) in str(raised.value)
    parsed(SFT, ["generation"], changes)


@pytest.mark.parametrize("task", [TRAIN, SFT])
@pytest.mark.parametrize("group", ["text", "generation", "vision"])
def test_a_rate_of_what_is_not_trained_is_refused(group: str, task: dict[str, Any]) -> None:
    trains = [each for each in ("text", "generation", "vision") if each != group]
    rate = {f"{group}_learning_rate": 2e-3}
    with pytest.raises(ConfigError, match=f"learner.{group}_learning_rate is 0.002: of no use while learner.trains is .*; add"):
        parsed(task, [], {"learner": {"trains": trains, **rate}})
    parsed(task, [], {"learner": {"trains": [*trains, group], **rate}})


@pytest.mark.parametrize("task", [TRAIN, SFT])
@pytest.mark.parametrize("trains", [["text"], ["generation"], ["text", "vision"], ["generation", "vision"]])
def test_one_expert_alone_is_trained_by_defaults(trains: list[str], task: dict[str, Any]) -> None:
    config = parsed(task, trains, {})
    assert not isinstance(config, RewardServiceConfig | RewardModelConfig)
    assert config.learner.trains == tuple(trains)


def test_the_bundled_checkpoint_is_found_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert (model_folder(Path("bundled:shapes")) / "ema.safetensors").is_file()
    assert model_folder(tmp_path) == tmp_path
