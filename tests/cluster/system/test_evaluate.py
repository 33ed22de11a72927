"""`unigrpo evaluate` from end to end: what it leaves is a folder that it, and GenEval's own scorer, can judge again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from cluster import cli
from configs.load import QUICKSTART, dump, load, model_folder
from tests.cluster.system.runs import Command
from unigrpo.geneval_folder import write_painted_prompt
from unigrpo.prompts import write_prompt_file
from unigrpo.shapes.prompts import shapes_prompts

slow = pytest.mark.slow
BLACK = torch.zeros(24, 24, 3, dtype=torch.uint8)


def trained_run(folder: Path) -> Path:
    """A run folder whose newest checkpoint is the bundled model."""
    checkpoint = folder / "checkpoints" / "step-000003"
    shutil.copytree(model_folder(Path("bundled:shapes")), checkpoint / "policy")
    (checkpoint / "manifest.json").write_text("{}")
    (folder / "config.yaml").write_text(dump(load(QUICKSTART, [f"run_dir={folder}"])))
    return folder


def output_of(command: Command, *arguments: str | Path, status: int = 0) -> str:
    process = command("evaluate", *arguments)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == status, output
    return str(output)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]


def measured(scores: dict[str, Any]) -> dict[str, Any]:
    """A summary without what was evaluated, and what was asked of judges."""
    return {name: value for name, value in scores.items() if name not in ("evaluated", "benchmark") and "/" not in name}


@slow
@pytest.mark.timeout(900)
def test_pictures_of_a_run_are_scored_and_score_the_same_when_judged_again(command: Command, tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run")
    prompts = [*shapes_prompts("held_out")[40:46], *shapes_prompts("held_out")[-2:]]
    write_prompt_file(tmp_path / "prompts.jsonl", prompts)
    few = f"evaluation.prompts={{kind: file, path: {tmp_path}/prompts.jsonl}}"
    said = output_of(command, run, "--benchmark", "shapes", few, "evaluation.images_per_prompt=3")
    out = run / "evaluations" / "shapes-step-000003"
    assert f"folder: {out}" in said
    scores = json.loads((out / "scores.json").read_text())
    assert (scores["prompts"], scores["pictures"], scores["pictures_per_prompt"]) == (8, 24, [3, 3])
    assert f"strict {scores['strict']:.3f}".replace("0.", ".") in said
    assert 0.2 < scores["strict"] < 1.0  # the bundled model is right at .46 on the whole split
    assert (out / "sheet.png").stat().st_size > 1000

    said = output_of(command, out, "--json", tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())
    assert measured(again) == measured(scores)
    for told in (scores, again):
        assert (told["groups/asked"], told["groups/dropped"], told["scores/failed"]) == (8, 0, 0)
        assert list(told["versions"]) == ["geneval"]
    [beside] = [folder for folder in out.parent.iterdir() if folder != out]
    judged_again = rows_of(beside)
    assert all(row["thought"].startswith("<think>") for row in rows_of(out))
    assert judged_again == [{**row, "thought": None} for row in rows_of(out)]


@slow
@pytest.mark.timeout(900)
def test_pictures_of_a_policy_that_could_not_be_judged_are_kept_and_judged_again(command: Command, tmp_path: Path) -> None:
    broken, sound = shapes_prompts("held_out")[40], shapes_prompts("held_out")[45]
    write_prompt_file(tmp_path / "prompts.jsonl", [broken, sound])
    (tmp_path / "moody_judge.py").write_text(
        "from pathlib import Path\n\n\nclass Moody:\n    def score(self, prompts, images):\n"
        f"        moody = not Path({str(tmp_path / 'cured')!r}).exists()\n"
        f"        return ['maybe' if moody and prompt.text == {broken.text!r} else 0.5 for prompt in prompts]\n"
    )
    judge = f"{{kind: python, verifier: 'moody_judge:Moody', folder: {tmp_path}, max_retries: 0}}"
    given = [f"evaluation.prompts={{kind: file, path: {tmp_path}/prompts.jsonl}}", f"evaluation.reward={judge}"]
    out = tmp_path / "out"
    said = output_of(command, "bundled:shapes", "--out", out, *given, "evaluation.images_per_prompt=2", status=1)
    assert "dropped: scores of prompt 0" in said
    assert "1 of 2 prompts could not be judged" in said
    assert f"the pictures of 2 of 2 prompts are kept, and `unigrpo evaluate {out}` judges them again" in said
    assert "Traceback" not in said
    assert not (out / "scores.json").exists()
    (tmp_path / "cured").touch()
    output_of(command, out, "--json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["value"], scores["prompts"], scores["pictures"]) == (0.5, 2, 4)


@slow
@pytest.mark.timeout(600)
def test_a_judge_that_fails_ends_the_evaluation_with_a_message_and_no_score(command: Command, tmp_path: Path) -> None:
    (tmp_path / "failing_judge.py").write_text(
        "class Failing:\n    def score(self, prompts, images):\n        raise RuntimeError('no light')\n"
    )
    for prompt in shapes_prompts("train")[:5]:
        write_painted_prompt(tmp_path / "pictures", prompt, [BLACK])
    judge = f"{{kind: python, verifier: 'failing_judge:Failing', folder: {tmp_path}, max_retries: 0}}"
    said = output_of(command, tmp_path / "pictures", "--config", QUICKSTART, f"evaluation.reward={judge}", status=1)
    assert "unigrpo: " in said
    assert "could not be judged" in said
    assert "Traceback" not in said
    assert not (tmp_path / "pictures-evaluation" / "scores.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pictures"], "pictures is a folder of pictures; say who judges them by --benchmark"),
        (["pictures", "--benchmark", "exam"], "evaluation.reward.remote.endpoints, evaluation.reward.model still to be given"),
        (["pictures", "--benchmark", "shapes"], "pictures/00000/samples/0001.png: 5 bytes are no "),
        (["pictures", "--benchmark", "shapes", "--json", "no/scores.json"], "--json no/scores.json lies in a folder that does"),
        (["nowhere", "--benchmark", "shapes"], "nowhere does not exist; give a run folder, a checkpoint, bundled:shapes or"),
        (
            ["bundled:shapes", "--benchmark", "geneval"],
            "evaluation.prompts.path, evaluation.reward.detector_path, evaluation.reward.clip_path still to be given",
        ),
        (["bundled:shapes", "--benchmark", "shapes", "--out", "pictures"], "--out pictures exists and is not empty"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_anything_starts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    write_painted_prompt(tmp_path / "pictures", shapes_prompts("train")[0], [BLACK])
    (tmp_path / "pictures" / "00000" / "samples" / "0001.png").write_bytes(b"black")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", *arguments]) == 2
    assert not ray.is_initialized()
    output = capsys.readouterr()
    assert output.err.startswith("unigrpo: ")
    assert message in output.err
    assert output.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures"]
