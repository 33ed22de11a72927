"""What `unigrpo evaluate` makes of its arguments, and where it writes."""

from pathlib import Path

import pytest
import torch

from cluster.benchmarks import BENCHMARKS
from cluster.evaluation_subject import checkpoint_of, evaluation_config, out_folder, released_layout
from configs.load import ConfigError, dump, load, model_folder, still_to_be_given
from configs.schema import ExamPrompts, FilePrompts, ShapesPrompts
from configs.verifiers import ExamReward, GenevalReward
from unigrpo.geneval_folder import write_painted_prompt
from unigrpo.shapes.prompts import shapes_prompts

BUNDLED = Path("bundled:shapes")


def pictures(folder: Path) -> Path:
    write_painted_prompt(folder, shapes_prompts("train")[0], [torch.zeros(2, 2, 3, dtype=torch.uint8)])
    return folder


def run_with(folder: Path, *steps: int) -> Path:
    for step in steps:
        checkpoint = folder / "checkpoints" / f"step-{step:06d}"
        (checkpoint / "policy").mkdir(parents=True)
        (checkpoint / "manifest.json").write_text("{}")
    return folder


def test_a_benchmark_is_a_name_for_settings_and_overrides_come_on_top() -> None:
    shapes = evaluation_config(BUNDLED, "shapes", None, []).evaluation
    assert (shapes.prompts, shapes.images_per_prompt) == (ShapesPrompts(split="held_out"), 2)
    assert isinstance(shapes.reward, GenevalReward)
    assert shapes.reward.detector == "shapes"
    exam = evaluation_config(BUNDLED, "exam", None, ["evaluation.reward.model=m", "evaluation.images_per_prompt=1"]).evaluation
    assert (exam.prompts, exam.images_per_prompt) == (ExamPrompts(), 1)
    assert isinstance(exam.reward, ExamReward)
    assert exam.reward.model == "m"
    geneval = evaluation_config(BUNDLED, "geneval", None, ["evaluation.prompts.path=p.jsonl"]).evaluation
    assert (geneval.prompts, geneval.images_per_prompt) == (FilePrompts(path=Path("p.jsonl").absolute()), 4)


@pytest.mark.parametrize(
    ("benchmark", "missing"),
    [
        ("shapes", []),
        ("geneval", ["evaluation.prompts.path", "evaluation.reward.detector_path", "evaluation.reward.clip_path"]),
        ("exam", ["evaluation.reward.remote.endpoints", "evaluation.reward.model"]),
    ],
)
def test_what_a_benchmark_leaves_to_be_given(benchmark: str, missing: list[str]) -> None:
    assert still_to_be_given(evaluation_config(BUNDLED, benchmark, None, [])) == missing


def test_the_config_is_the_one_asked_for_or_that_beside_what_is_evaluated_or_the_quickstarts(tmp_path: Path) -> None:
    own = load(Path("configs/quickstart.yaml"), ["evaluation.num_points=7", "evaluation.temperature=0"])
    (tmp_path / "config.yaml").write_text(dump(own))
    assert evaluation_config(tmp_path, None, None, []) == own
    assert evaluation_config(tmp_path / "checkpoints" / "step-000002", None, None, []) == own
    assert evaluation_config(tmp_path, "geneval", None, []).evaluation.num_points == 7
    assert evaluation_config(tmp_path, None, Path("configs/quickstart.yaml"), []).evaluation.num_points == 10
    assert evaluation_config(BUNDLED, None, None, []) == load(Path("configs/quickstart.yaml"))
    with pytest.raises(ConfigError, match=r"takes a training config, but configs/shapes_sft\.yaml has task sft"):
        evaluation_config(BUNDLED, None, Path("configs/shapes_sft.yaml"), [])


def test_a_folder_of_pictures_needs_a_judge_that_somebody_named(tmp_path: Path) -> None:
    pictures(tmp_path)
    with pytest.raises(ConfigError, match=r"say who judges them by --benchmark shapes, geneval, exam or by --config FILE"):
        evaluation_config(tmp_path, None, None, [])
    for benchmark in BENCHMARKS:
        evaluation_config(tmp_path, benchmark, None, [])
    evaluation_config(tmp_path, None, Path("configs/quickstart.yaml"), [])


def test_a_policy_is_a_runs_newest_checkpoint_or_what_is_named(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", 2, 10)
    assert checkpoint_of(run) == run / "checkpoints" / "step-000010"
    assert released_layout(checkpoint_of(run)) == run / "checkpoints" / "step-000010" / "policy"
    earlier = run / "checkpoints" / "step-000002"
    assert released_layout(checkpoint_of(earlier)) == earlier / "policy"
    assert released_layout(checkpoint_of(BUNDLED)) == model_folder(BUNDLED)
    (tmp_path / "young" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="young holds no complete checkpoint yet"):
        checkpoint_of(tmp_path / "young")
    with pytest.raises(ConfigError, match=r"nowhere does not exist; give a run folder, a checkpoint, bundled:shapes or"):
        checkpoint_of(tmp_path / "nowhere")


def test_of_a_run_of_two_stages_the_later_one_with_a_checkpoint_is_meant(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_with(run / "stage-1", 5)
    (run / "stage-2").mkdir()
    for folder, points in ((run, 3), (run / "stage-1", 4), (run / "stage-2", 5)):
        own = load(Path("configs/quickstart.yaml"), [f"evaluation.num_points={points}"])
        (folder / "config.yaml").write_text(dump(own))
    assert checkpoint_of(run) == run / "stage-1" / "checkpoints" / "step-000005"
    assert evaluation_config(run, None, None, []).evaluation.num_points == 4
    run_with(run / "stage-2", 7)
    assert checkpoint_of(run) == run / "stage-2" / "checkpoints" / "step-000007"
    assert evaluation_config(run, None, None, []).evaluation.num_points == 5
    assert out_folder(None, run, "shapes") == run / "stage-2" / "evaluations" / "shapes-step-000007"
    assert checkpoint_of(run / "stage-1") == run / "stage-1" / "checkpoints" / "step-000005"


def test_results_go_where_they_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with(tmp_path / "run", 2, 10)
    monkeypatch.chdir(tmp_path)
    assert out_folder(None, run, "shapes") == run / "evaluations" / "shapes-step-000010"
    assert out_folder(None, run / "checkpoints" / "step-000002", "exam") == run / "evaluations" / "exam-step-000002"
    assert out_folder(None, BUNDLED, "shapes") == tmp_path / "evaluations" / "bundled-shapes-shapes"
    assert out_folder(None, pictures(tmp_path / "theirs"), "geneval") == tmp_path / "theirs-geneval"
    monkeypatch.chdir(tmp_path / "theirs")
    assert out_folder(None, Path("."), "exam") == tmp_path / "theirs-exam"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", 10)
    first = out_folder(None, run, "shapes")
    assert out_folder(None, run, "shapes") == first  # still empty
    (first / "scores.json").touch()
    second = out_folder(None, run, "shapes")
    assert second == first.with_name("shapes-step-000010-2")
    (second / "scores.json").touch()
    assert out_folder(None, run, "shapes").name == "shapes-step-000010-3"
    assert out_folder(tmp_path / "a" / "b", run, "shapes") == tmp_path / "a" / "b"
    with pytest.raises(ConfigError, match=r"--out .* exists and is not empty; give another folder"):
        out_folder(first, run, "shapes")
    with pytest.raises(ConfigError, match=r"--out .*scores.json exists and is not empty"):
        out_folder(first / "scores.json", run, "shapes")
    with pytest.raises(ConfigError, match=r"cannot be made: Not a directory; give another by --out"):
        out_folder(first / "scores.json" / "below", run, "shapes")
