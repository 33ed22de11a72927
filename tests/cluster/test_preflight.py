"""What `unigrpo validate` finds before Ray starts, on the bundled model: 512 positions, 523 prompts to train on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.judge_checks import check_judges
from cluster.placement import Ask, require_room
from cluster.preflight import prepare, prepare_evaluation, prepare_judging, resolved
from configs.load import ConfigError, load
from configs.roles import Placement
from configs.schema import TrainConfig
from unigrpo.prompts import write_prompt_file
from unigrpo.shapes.prompts import shapes_prompts

QUICKSTART = Path("configs/quickstart.yaml")


def quickstart(*overrides: str) -> TrainConfig:
    config = load(QUICKSTART, overrides)
    assert isinstance(config, TrainConfig)
    return config


def validate(config: TrainConfig) -> list[str]:
    return list(resolved(config))


def train(config: TrainConfig) -> object:
    return prepare(config, evaluates=config.evaluation.every is not None)


@pytest.mark.parametrize("check", [validate, train])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reasoner.max_model_len=513", "reasoner.max_model_len is 513, but the model at bundled:shapes has 512 positions"),
        (
            "reasoner.kv_cache_bytes=1048576",
            "reasoner.kv_cache_bytes is 1048576, but max_num_seqs=32 thoughts of",
        ),
        (
            "rollout={prompts_per_step: 528, group_size: 8, max_thought_tokens: 48}",
            "rollout.prompts_per_step is 528, but the train split holds 523 distinct prompts",
        ),
        (
            "evaluation.reward={kind: exam, model: m, remote: {endpoints: ['https://judge.example.org/v1']}}",
            "evaluation.prompts: a reward of kind exam cannot judge the prompts of the shapes world, such as 'a circle': "
            "exam_points is None, but must be a list of 1 to 20 texts; set evaluation.reward or evaluation.prompts",
        ),
        (
            "reward={kind: combined, weights: {a: 1, b: 1}, parts: {a: {kind: random}, b: {kind: ocr}}}",
            "prompts: a reward of kind combined cannot judge the prompts of the shapes world, such as 'a circle': part b: ",
        ),
        (
            "evaluation.reward={kind: http, remote: {endpoints: ['http://127.0.0.1:8200']}}",
            "evaluation.reward: endpoint 'http://127.0.0.1:8200' is the address 127.0.0.1, which is not public",
        ),
        (
            "reward={kind: combined, weights: {a: 1, b: 1}, parts: {a: {kind: random}, b: {kind: vlm_judge, model: m, "
            "template: README.md, remote: {endpoints: ['https://judge.example.org/v1']}}}}",
            "reward.parts.b: the template ",
        ),
        (
            "reward={kind: http, remote: {endpoints: ['https://judge.example.org'], token_env: NO_SUCH_TOKEN}}",
            "reward: the environment variable NO_SUCH_TOKEN is not set",
        ),
        (
            "reward={kind: python, verifier: 'no_such_module:Judge'}",
            "reward: reward.verifier no_such_module:Judge: there is no",
        ),
        ("sampler.height=30", "sampler.height or sampler.width: a painting's height is 30 pixels"),
        (
            "model.system_prompt=a circle <|im_end|>",
            "model.system_prompt: the special token <|im_end|> must not stand in a text, as it would break the layout",
        ),
        (
            "learner.trains=[text, generation, vision]",
            "learner.trains is ['text', 'generation', 'vision'], but the model of model.path has no vision tower; leave vision",
        ),
        ("model.path=/nowhere", "model.path is /nowhere, which does not exist"),
    ],
)
def test_validating_and_training_find_the_same(check: Callable[[TrainConfig], object], override: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check(quickstart(override))
    assert message in str(raised.value)


def test_a_token_of_other_machines_is_theirs_to_read() -> None:
    judge = "evaluation.reward={kind: http, remote: {endpoints: ['https://judge.example.org'], token_env: NO_SUCH_TOKEN}}"
    check_judges(quickstart(judge, "cluster.address=auto"))
    for check in (prepare_evaluation, prepare_judging):
        with pytest.raises(ConfigError, match=r"^evaluation\.reward: the environment variable NO_SUCH_TOKEN is not set"):
            check(quickstart(judge))


def test_a_judge_of_which_something_is_still_to_be_given_is_passed_over() -> None:
    check_judges(quickstart("reward={kind: exam}", "evaluation.reward={kind: python}"))


def test_a_missing_class_is_not_blamed_on_the_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    write_prompt_file(file, shapes_prompts("train")[:8])
    judge = f"reward={{kind: python, verifier: 'absent_judges:Warmth', folder: {tmp_path}}}"
    with pytest.raises(ConfigError) as raised:
        train(quickstart(judge, f"prompts={{kind: file, path: {file}}}"))
    assert str(raised.value).startswith("reward: reward.verifier absent_judges:Warmth: there is no module absent_judges")
    assert str(file) not in str(raised.value)


def test_the_longest_context_and_the_smallest_cache_that_fit() -> None:
    numbers = 2 * 4 * 2 * 32  # keys and values, layers, heads, channels
    cache = (2 * 16 + 1) * 32 * numbers * 4  # two thoughts of 16 blocks and vLLM's own block, 32 tokens each, in float32
    fits = ("reasoner.max_model_len=512", "reasoner.max_num_seqs=2", f"reasoner.kv_cache_bytes={cache}")
    assert "523 prompts to train on" in validate(quickstart(*fits))
    with pytest.raises(ConfigError, match=f"may need {cache}"):
        validate(quickstart(*fits, f"reasoner.kv_cache_bytes={cache - 1}"))


def test_a_prompt_that_stands_twice_in_a_file_counts_once(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    prompts = shapes_prompts("train")[:7]
    overrides = [f"prompts={{kind: file, path: {file}}}"]
    write_prompt_file(file, [*prompts, prompts[0]])
    with pytest.raises(ConfigError) as raised:
        validate(quickstart(*overrides))
    assert f"rollout.prompts_per_step is 8, but {file} holds 7 distinct prompts" in str(raised.value)
    write_prompt_file(file, shapes_prompts("train")[:8])
    assert "8 prompts to train on" in validate(quickstart(*overrides))


def test_what_is_given_of_a_preset_is_checked_though_more_is_missing() -> None:
    with pytest.raises(ConfigError, match="has 512 positions"):
        validate(quickstart("reasoner.max_model_len=513", "prompts={kind: file, path: null}"))
    assert not any("prompts to train on" in line for line in validate(quickstart("prompts={kind: file, path: null}")))


def test_training_asks_for_what_a_preset_leaves_open() -> None:
    with pytest.raises(ConfigError, match=r"prompts\.path, reward\.detector still to be given"):
        train(quickstart("prompts={kind: file, path: null}", "reward={kind: geneval}"))


@pytest.mark.parametrize("kind", ["random", "geneval, detector: shapes, score: strict"])
def test_every_reward_evaluates_the_prompts_that_it_can_judge(kind: str) -> None:
    assert "523 prompts to train on" in validate(quickstart(f"evaluation.reward={{kind: {kind}}}"))


def test_prompts_of_evaluations_that_nobody_asked_for_need_no_judge() -> None:
    exam = ["prompts={kind: exam}", "reward={kind: exam, model: m, remote: {endpoints: ['https://judge.example.org/v1']}}"]
    with pytest.raises(ConfigError, match="cannot judge the prompts of the shapes world"):
        prepare(quickstart(*exam, "prompts={kind: shapes}"), evaluates=False)
    with pytest.raises(ConfigError, match="the tokenizer does not know 'Four'"):  # no word on the shapes world's judge
        prepare(quickstart(*exam), evaluates=False)


def test_an_evaluation_asks_for_what_it_needs_and_training_does_not_matter() -> None:
    open_keys = ["prompts={kind: file, path: null}", "reward={kind: geneval}"]
    prepare_evaluation(quickstart(*open_keys, "evaluation.reward={kind: geneval, detector: shapes}"))
    with pytest.raises(ConfigError, match=r"^reward\.detector still to be given"):
        prepare_evaluation(quickstart(*open_keys))
    preset = load(Path("configs/bagel_1024.yaml"), ["evaluation.reward={kind: exam}"])
    assert isinstance(preset, TrainConfig)
    with pytest.raises(ConfigError) as raised:
        prepare_evaluation(preset)
    judge = "evaluation.reward.remote.endpoints, evaluation.reward.model still to be given"
    assert str(raised.value).startswith(f"model.path, evaluation.prompts.path, {judge}")
    with pytest.raises(ConfigError) as raised:
        prepare_judging(preset)
    assert str(raised.value).startswith(judge)


def test_files_that_only_training_needs_may_be_on_another_machine(tmp_path: Path) -> None:
    gone = ["prompts={kind: file, path: /nowhere/prompts.jsonl}", "reward={kind: preference, path: /nowhere/clip}"]
    judged = quickstart(*gone, "evaluation.reward={kind: geneval, detector: shapes}")
    prepare_evaluation(judged)
    prepare_judging(judged)
    file = {"kind": "file", "path": "/nowhere/held_out.jsonl"}
    other = quickstart(*gone, "evaluation.reward={kind: random}", f"evaluation.prompts={file}")
    prepare_judging(other)
    with pytest.raises(ConfigError, match=r"^evaluation\.prompts\.path is /nowhere/held_out\.jsonl, which does not exist"):
        prepare_evaluation(other)
    for check in (prepare_evaluation, prepare_judging):
        with pytest.raises(ConfigError, match=r"^reward\.path is /nowhere/clip, which does not exist"):
            check(quickstart(*gone))
    with pytest.raises(ConfigError, match=r"prompts\.path is /nowhere/prompts\.jsonl, which does not exist"):
        train(judged)


def test_an_evaluation_finds_prompts_that_do_not_fit_and_cannot_be_judged(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"tag": "colors", "include": [{"class": "circle", "count": 1}], "prompt": "' + "red " * 200 + '"}\n')
    with pytest.raises(ConfigError, match=r"has 203 tokens with its system prompt, but reasoner\.max_model_len=128"):
        prepare_evaluation(quickstart(f"evaluation.prompts={{kind: file, path: {file}}}"))
    file.write_text('{"tag": "colors", "include": [{"class": "dog", "count": 1}], "prompt": "a circle"}\n')
    with pytest.raises(ConfigError, match=r"prompts.jsonl:1: .*'dog', which the detector cannot name"):
        prepare_evaluation(quickstart(f"evaluation.prompts={{kind: file, path: {file}}}"))


@pytest.mark.parametrize("special", ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"])
def test_special_tokens_in_a_prompt_are_refused_with_its_line(special: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    spoilt = replace(shapes_prompts("train")[8], text=f"a circle{special} red", metadata={})
    spoilt = replace(spoilt, metadata={**shapes_prompts("train")[8].metadata, "prompt": spoilt.text})
    write_prompt_file(file, [*shapes_prompts("train")[:8], spoilt])
    for key, check in (("prompts", train), ("evaluation.prompts", train), ("evaluation.prompts", prepare_evaluation)):
        with pytest.raises(ConfigError) as raised:
            check(quickstart(f"{key}={{kind: file, path: {file}}}"))
        place = f"{key}: {file}:9: prompt 'a circle{special} red': the special token {special} must not stand in a text"
        assert str(raised.value).startswith(place)


def test_an_evaluation_does_not_ask_for_the_tower_that_training_would() -> None:
    prepare_evaluation(quickstart("learner.trains=[text, generation, vision]"))


def test_the_roles_together_must_fit_the_cluster() -> None:
    tenth = Placement(num_cpus=0.1)
    asks = [
        Ask(role="learner", placement=Placement(num_cpus=1, num_gpus=1, resources={"big": 1}), num_workers=2),
        Ask(role="reasoner", placement=tenth, num_workers=3),
    ]
    require_room(asks, {"CPU": 2.3, "GPU": 2, "big": 2})
    with pytest.raises(ConfigError) as raised:
        require_room(asks, {"CPU": 2.0, "GPU": 2.0})
    assert str(raised.value) == (
        "the roles ask for 2.3 CPU (learner 2 x 1, reasoner 3 x 0.1), but the Ray cluster has 2 in all; "
        "the roles ask for 2 big (learner 2 x 1), but the Ray cluster has 0 in all; "
        "lower num_workers, num_ranks or placement of a role, or add nodes"
    )
