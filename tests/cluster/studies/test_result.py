"""What is finished is told from what is not, and from what was another run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.studies.perform import tidy
from cluster.studies.plan import Run, runs_of
from cluster.studies.result import POLICY, RESULT, Result, decisive, hash_of, modes_to_do, read_result, require_same_study
from configs.load import ConfigError, model_folder
from tests.cluster.studies.fakes import CONFIGS, fake_result, fake_study


def the_run(run_dir: Path, *overrides: str, **changes: object) -> Run:
    row = {"config": "../shapes/unigrpo.yaml", "overrides": list(overrides)}
    return runs_of(fake_study(run_dir, rows={"unigrpo": row}, **changes), CONFIGS)[0]


def finished(run: Run) -> None:
    result: Result = fake_result("unigrpo", "sft", 0, 0.7)
    replace(result, config=decisive(run)).write(run.config.run_dir)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    result = fake_result("unigrpo", "sft", 0, 0.7)
    result.write(tmp_path)
    read = read_result(tmp_path / RESULT)
    assert json.loads(json.dumps(read.scores)) == json.loads(json.dumps(result.scores))
    assert (read.row, read.seed, read.diverged, read.config_hash) == ("unigrpo", 0, None, "abc")
    assert [path.name for path in tmp_path.iterdir()] == [RESULT]


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / RESULT).write_text(json.dumps({"format": 0}))
    with pytest.raises(ConfigError, match="has format 0, this version reads 2"):
        read_result(tmp_path / RESULT)


def test_what_is_finished_is_done_wherever_and_with_however_much_it_would_run_today(tmp_path: Path) -> None:
    run = the_run(tmp_path)
    assert modes_to_do(run) == ["think", "no_think"]
    finished(run)
    assert not modes_to_do(run)
    assert not modes_to_do(the_run(tmp_path, "denoiser.num_workers=3", "learner.placement.num_cpus=1", "logging.samples=4"))


@pytest.mark.parametrize(
    ("overrides", "changes", "key"),
    [
        (["learner.text_learning_rate=1.0e-4"], {}, "learner.text_learning_rate was 0.0003 and is 0.0001"),
        (["algorithm.window.placement=sample"], {}, "algorithm.window.placement was 'step' and is 'sample'"),
        ([], {"steps": 22}, "steps was 21 and is 22"),
        ([], {"images_per_prompt": 4}, "modes.think.images_per_prompt was 2 and is 4"),
        ([], {"starts": {"sft": {"kind": "checkpoint", "path": "bundled:shapes_base"}}}, "model.weights was "),
    ],
)
def test_what_was_another_run_is_refused(tmp_path: Path, overrides: list[str], changes: dict[str, object], key: str) -> None:
    finished(the_run(tmp_path))
    with pytest.raises(ConfigError, match=key):
        modes_to_do(the_run(tmp_path, *overrides, **changes))


MODES = {"think": ["evaluation.thinks=true"], "no_think": ["evaluation.thinks=false"]}
GREEDY = {"greedy": ["evaluation.thinks=true", "evaluation.temperature=0"]}


def test_a_mode_that_a_study_got_is_all_that_is_left_to_do(tmp_path: Path) -> None:
    run, more = the_run(tmp_path), the_run(tmp_path, modes=MODES | GREEDY)
    finished(run)
    with pytest.raises(ConfigError, match="has ended and kept no policy to evaluate in greedy; take these modes"):
        modes_to_do(more)
    for place in ("stage-2/checkpoints/step-000021", "."):  # a kill may have kept it from being tidied away
        (run.config.run_dir / place / POLICY).mkdir(parents=True)
        assert modes_to_do(more) == ["greedy"]
        shutil.rmtree(run.config.run_dir / place / POLICY)
    (run.config.run_dir / POLICY).mkdir()
    finished(more)
    assert not modes_to_do(more)
    assert not modes_to_do(run)  # what it was evaluated in besides is left alone
    with pytest.raises(ConfigError, match=r"modes\.greedy\.temperature was 0\.0 and is 0\.5"):
        modes_to_do(the_run(tmp_path, modes=MODES | {"greedy": ["evaluation.temperature=0.5"]}))


def test_a_run_that_diverged_has_nothing_left_to_evaluate(tmp_path: Path) -> None:
    run = the_run(tmp_path)
    replace(fake_result("unigrpo", "sft", 0, None), config=decisive(run)).write(run.config.run_dir)
    assert not modes_to_do(the_run(tmp_path, modes=MODES | GREEDY))


def test_a_start_is_the_same_under_another_path(tmp_path: Path) -> None:
    shutil.copytree(model_folder(Path("bundled:shapes")), tmp_path / "copy")
    copied = {"sft": {"kind": "checkpoint", "path": str(tmp_path / "copy")}}
    assert decisive(the_run(tmp_path)) == decisive(the_run(tmp_path, starts=copied))
    assert hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1}) != hash_of({"a": 2, "b": 2})


def prompt_file(path: Path, shape: str) -> str:
    include = [{"class": shape, "count": 1, "color": "red"}]
    path.write_text(json.dumps({"tag": "colors", "prompt": f"a red {shape}", "include": include}) + "\n")
    return str(path)


@pytest.mark.parametrize("section", ["prompts", "study"])
def test_a_prompt_file_counts_with_its_content(tmp_path: Path, section: str) -> None:
    def run() -> Run:
        asked = {"kind": "file", "path": str(tmp_path / "asked.jsonl")}
        if section == "study":
            return the_run(tmp_path, prompts=asked)
        return the_run(tmp_path, f"prompts={json.dumps(asked)}")

    prompt_file(tmp_path / "asked.jsonl", "circle")
    finished(run())
    assert not modes_to_do(run())
    prompt_file(tmp_path / "asked.jsonl", "square")
    key = "prompts" if section == "prompts" else "modes.think.prompts"
    with pytest.raises(ConfigError, match=f"content of {key} was "):
        modes_to_do(run())
    (tmp_path / "asked.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"asked\.jsonl is neither a file nor a folder"):
        modes_to_do(run())


def test_the_start_s_autoencoder_counts(tmp_path: Path) -> None:
    start = tmp_path / "start"
    shutil.copytree(model_folder(Path("bundled:shapes")), start)
    starts = {"sft": {"kind": "checkpoint", "path": str(start)}}
    finished(the_run(tmp_path, starts=starts))
    with (start / "ae.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(ConfigError, match=r"model\.autoencoder was "):
        modes_to_do(the_run(tmp_path, starts=starts))


def test_a_judge_s_path_and_the_reward_model_of_refl_count(tmp_path: Path) -> None:
    judged = [the_run(tmp_path, f"evaluation.reward={{kind: preference, path: /{name}}}") for name in ("old", "new")]
    first, second = map(decisive, judged)
    assert {key for key in first if first[key] != second[key]} == {
        *("evaluation.reward.path", "modes.think.reward.path", "modes.no_think.reward.path")
    }
    model = tmp_path / "model"
    model.mkdir()
    contents = []
    for word in ("one", "two"):
        (model / "model.safetensors").write_text(word)
        run = the_run(
            tmp_path,
            f"algorithm={{kind: refl, late_steps: [5, 9], reward_model: {{path: {model}}}}}",
            "learner={generation_learning_rate: 1.0e-4}",
        )
        contents.append(decisive(run)["content of algorithm.reward_model"])
    assert contents[0] != contents[1]


def result_of(run: Run) -> Result:
    return replace(fake_result(run.row, run.start, run.seed, 0.7), config=decisive(run))


def test_runs_of_one_study_differ_in_start_and_seed_and_rows_in_what_they_train(tmp_path: Path) -> None:
    runs = runs_of(fake_study(tmp_path), CONFIGS)
    require_same_study([result_of(run) for run in runs[:3]], runs)
    judged_as_trained, controlled = runs_of(
        fake_study(
            tmp_path,
            rows={"unigrpo": {"config": "../shapes/unigrpo.yaml"}, "random": {"config": "../shapes/random_reward.yaml"}},
        ),
        CONFIGS,
        seeds=[0],
    )
    require_same_study([result_of(judged_as_trained)], [controlled])


def test_runs_share_a_table_with_those_that_a_new_mode_was_not_evaluated_of(tmp_path: Path) -> None:
    there = result_of(runs_of(fake_study(tmp_path), CONFIGS, rows=["unigrpo"])[0])
    require_same_study([there], runs_of(fake_study(tmp_path, modes=MODES | GREEDY), CONFIGS))


@pytest.mark.parametrize(
    ("rows", "changes", "fault"),
    [
        (["unigrpo"], {"steps": 10}, "steps is 21 in unigrpo/sft-seed0 and 10 in unigrpo/sft-seed7"),
        (["text_grpo"], {"steps": 10}, "steps of all stages is 21 in unigrpo/sft-seed0 and 10 in text_grpo/sft-seed7"),
        (["text_grpo"], {"images_per_prompt": 1}, r"modes\.think\.images_per_prompt is 2 in .* and 1 in text_grpo/sft-seed7"),
        (["sft"], {"prompts": {"kind": "shapes", "split": "tuning"}}, r"modes\.think\.prompts\.split is 'held_out' in .*"),
        (["unigrpo"], {"validation": {"every": 5}}, r"evaluation\.every is 20 in unigrpo/sft-seed0 and 5 in"),
    ],
)
def test_runs_of_another_study_are_refused(tmp_path: Path, rows: list[str], changes: dict[str, object], fault: str) -> None:
    there = result_of(runs_of(fake_study(tmp_path), CONFIGS, rows=["unigrpo"])[0])
    planned = runs_of(fake_study(tmp_path, **changes), CONFIGS, rows=rows, seeds=[7])
    with pytest.raises(ConfigError, match=fault):
        require_same_study([there], planned)


@pytest.mark.parametrize("stages", [[""], ["stage-1", "stage-2"]])
@pytest.mark.parametrize("keeps", [True, False])
def test_of_a_finished_run_the_last_policy_stays_if_anything(tmp_path: Path, stages: list[str], keeps: bool) -> None:
    run = the_run(tmp_path)
    folder = run.config.run_dir
    for stage in stages:
        for step in (10, 20):
            policy = folder / stage / "checkpoints" / f"step-{step:06d}" / "policy"
            policy.mkdir(parents=True)
            (policy / "told").write_text(f"{stage} {step}")
    finished(run)
    for _ in range(2):  # a kill may have come between writing and removing
        tidy(run, fake_study(tmp_path, keeps_policy=keeps))
        assert not list(folder.rglob("checkpoints"))
        assert (folder / "policy").exists() == keeps
    if keeps:
        assert (folder / "policy" / "told").read_text() == f"{stages[-1]} 20"
