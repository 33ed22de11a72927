"""What a person who mistypes a config reads."""

from pathlib import Path

import pytest
import yaml

from configs.load import ConfigError, check_files, dump, load, model_folder, parse
from configs.reward import Reward
from configs.schema import FilePrompts, TrainConfig
from configs.verifiers import ExamReward, GenevalReward, RandomReward

QUICKSTART = Path("configs/quickstart.yaml")


def error_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(QUICKSTART, overrides)
    return str(raised.value)


COMBINED = "{kind: combined, parts: {geneval: {kind: geneval, %s}, b: {kind: random}}, weights: {geneval: 1, b: 1}}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampler.num_point=1", "sampler.num_point: unknown key; did you mean num_points?"),
        ("zzz=1", "zzz: unknown key; known here: "),
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
        ("algorithm.kind=flow_grop", "algorithm.kind: did you mean flow_grpo? (given: {'kind': 'flow_grop', "),
        ("task=trian", "task is 'trian'; allowed are train, sft"),
        ("nonsense", "is not of the form dotted.key=value"),
        ("steps.more=1", "steps is a value, not a section"),
    ],
)
def test_a_bad_value_is_named_with_the_way_out(override: str, message: str) -> None:
    assert message in error_of(override)


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


def test_every_fault_is_named_at_once() -> None:
    message = error_of("sampler.num_point=1", "rollout.group_size=1")
    assert "num_point" in message
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


def test_the_bundled_checkpoint_is_found_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert (model_folder(Path("bundled:shapes")) / "ema.safetensors").is_file()
    assert model_folder(tmp_path) == tmp_path
