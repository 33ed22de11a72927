"""A run to its result, with training and evaluation by fakes; and how good thoughts and pictures are."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.studies import perform as module, thoughts
from cluster.studies.perform import perform
from cluster.studies.plan import Run, runs_of
from cluster.studies.provenance import provenance
from cluster.studies.result import POLICY, RESULT, decisive, read_result
from cluster.studies.thoughts import plan_scores
from cluster.view import View
from cluster.workers import Workers
from configs.schema import TrainConfig
from configs.study import StudyConfig
from tests.cluster.fakes import fake_group
from tests.cluster.studies.fakes import CONFIGS, fake_scores, fake_study
from unigrpo.shapes.plan import read_trace
from unigrpo.shapes.render import render
from unigrpo.types import Thought

COMMAND = {"command": "unigrpo reproduce fake", "commit": "1", "started": "2026-01-01", "lanes": 2}


@pytest.fixture
def study(tmp_path: Path) -> StudyConfig:
    return fake_study(tmp_path)


@pytest.fixture
def runs(study: StudyConfig) -> dict[str, Run]:
    return {run.name: run for run in runs_of(study, CONFIGS)}


class FakeTaskError(FloatingPointError):
    """A fault in an actor as Ray hands it on: its text is the traceback."""

    cause = FloatingPointError("update 8 has loss nan")

    def __str__(self) -> str:
        return "\x1b[36mray::Learner.update()\x1b[39m ..."


class FakeRun:
    """Stands in for training and evaluation, and remembers which policies were evaluated, in which modes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained, self.evaluated, self.modes = list[str](), list[Path](), list[list[str]]()
        self.fault: BaseException | None = None
        monkeypatch.setattr(module, "prepare", lambda config, evaluates: None)
        monkeypatch.setattr(module, "stage_folders", self.folders)
        monkeypatch.setattr(module, "train_stages", self.train)
        monkeypatch.setattr(module, "evaluate_modes", self.evaluate)

    @contextmanager
    def folders(self, config: TrainConfig) -> Iterator[list[TrainConfig]]:
        yield [config]

    def train(self, stages: Sequence[TrainConfig], *_: Any) -> None:
        self.trained += [str(stage.run_dir) for stage in stages]
        if self.fault is not None:
            raise self.fault

    def evaluate(self, run: Run, policy: Path, *_: Any) -> dict[str, Any]:
        if isinstance(self.fault, TimeoutError):
            raise self.fault
        self.evaluated.append(policy)
        self.modes.append(list(run.modes))
        return {mode: fake_scores(0.7) | {"painted": 60, "seconds": 2.0} for mode in run.modes}


def test_a_trained_run_is_evaluated_with_its_last_policy(
    monkeypatch: pytest.MonkeyPatch, study: StudyConfig, runs: dict[str, Run]
) -> None:
    fake, run = FakeRun(monkeypatch), runs["unigrpo/sft-seed1"]
    perform(run, study, Workers(), View, COMMAND)
    folder = run.config.run_dir
    assert fake.trained == [str(folder)]
    assert fake.evaluated == [folder / "checkpoints" / "step-000021" / "policy"]
    result = read_result(folder / RESULT)
    assert (result.row, result.start, result.seed, result.diverged) == ("unigrpo", "sft", 1, None)
    assert {mode: scores["strict"] for mode, scores in result.scores.items()} == {"think": 0.7, "no_think": 0.7}
    assert (result.compute["evaluation_images"], result.compute["seconds"]["modes"]) == (120, 4.0)
    assert result.config["algorithm.kind"] == "unigrpo"
    [command] = result.provenance
    assert {**command, **COMMAND} == command  # as it was told before anything ran
    assert command["ended"] >= command["began"] > "2026-01-01"


def test_the_commands_of_a_run_that_was_cut_off_are_kept(
    monkeypatch: pytest.MonkeyPatch, study: StudyConfig, runs: dict[str, Run]
) -> None:
    fake, run = FakeRun(monkeypatch), runs["unigrpo/sft-seed0"]
    fake.fault = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        perform(run, study, Workers(), View, COMMAND)
    fake.fault = None
    perform(run, study, Workers(), View, COMMAND | {"commit": "2"})
    told = read_result(run.config.run_dir / RESULT).provenance
    assert [(each["commit"], each["ended"] is None) for each in told] == [("1", True), ("2", False)]


def test_a_command_tells_its_versions() -> None:
    assert provenance()["versions"]["torch"] == torch.__version__


def test_what_trains_nothing_is_evaluated_as_it_is(
    monkeypatch: pytest.MonkeyPatch, study: StudyConfig, runs: dict[str, Run]
) -> None:
    fake = FakeRun(monkeypatch)
    perform(runs["sft/sft"], study, Workers(), View, COMMAND)
    assert fake.trained == []
    assert [(path.parent.name, path.name) for path in fake.evaluated] == [("bundled", "shapes")]
    result = read_result(runs["sft/sft"].config.run_dir / RESULT)
    assert (result.seed, result.compute["images"]) == (None, 0)


def test_training_that_diverges_is_a_result_and_any_other_fault_is_not(
    monkeypatch: pytest.MonkeyPatch, study: StudyConfig, runs: dict[str, Run]
) -> None:
    fake = FakeRun(monkeypatch)
    fake.fault = FloatingPointError("update 7 has loss nan")
    lost = runs["text_grpo/sft-seed0"]
    perform(lost, study, Workers(), View, COMMAND)
    result = read_result(lost.config.run_dir / RESULT)
    assert (result.diverged, result.scores, fake.evaluated) == ("update 7 has loss nan", {}, [])
    fake.fault = FakeTaskError()
    lost = runs["unigrpo/sft-seed0"]
    perform(lost, study, Workers(), View, COMMAND)
    assert read_result(lost.config.run_dir / RESULT).diverged == "update 8 has loss nan"
    fake.fault = RuntimeError("a process died")
    broken = runs["text_grpo/sft-seed1"]
    with pytest.raises(RuntimeError, match="a process died"):
        perform(broken, study, Workers(), View, COMMAND)
    assert not (broken.config.run_dir / RESULT).exists()


def test_training_that_is_done_is_evaluated_without_a_step(
    monkeypatch: pytest.MonkeyPatch, study: StudyConfig, runs: dict[str, Run]
) -> None:
    fake = FakeRun(monkeypatch)
    monkeypatch.setattr(module, "is_finished", lambda stage: True)
    perform(runs["unigrpo/base-seed0"], study, Workers(), View, COMMAND)
    assert (fake.trained, len(fake.evaluated)) == ([], 1)


@pytest.mark.parametrize("name", ["unigrpo/sft-seed1", "sft/sft"])
def test_a_finished_run_is_evaluated_in_the_modes_that_its_study_got_since(
    monkeypatch: pytest.MonkeyPatch, study: StudyConfig, runs: dict[str, Run], name: str
) -> None:
    fake, folder = FakeRun(monkeypatch), runs[name].config.run_dir
    perform(runs[name], study, Workers(), View, COMMAND)
    (folder / POLICY).mkdir()
    before, trained = read_result(folder / RESULT), list(fake.trained)
    more = fake_study(study.run_dir, modes={**study.modes, "greedy": ["evaluation.temperature=0"]})
    [run] = [run for run in runs_of(more, CONFIGS) if run.name == name]
    fake.fault = TimeoutError()
    with pytest.raises(TimeoutError):
        perform(run, more, Workers(), View, COMMAND | {"commit": "lost"})
    fake.fault = None
    perform(run, more, Workers(), View, COMMAND | {"commit": "2"})
    after = read_result(folder / RESULT)
    assert (fake.trained, fake.modes) == (trained, [["think", "no_think"], ["greedy"]])
    assert fake.evaluated[1] == (folder / POLICY if run.seed is not None else fake.evaluated[0])
    assert list(after.scores) == ["think", "no_think", "greedy"]
    assert (after.config_hash != before.config_hash, after.config) == (True, decisive(run))
    assert [(each["commit"], each["ended"] is None) for each in after.provenance] == [
        ("1", False),
        ("lost", True),
        ("2", False),
    ]
    seconds = {**before.compute["seconds"], "modes": 6.0}
    assert after.compute == {**before.compute, "evaluation_images": 180, "seconds": seconds}
    less = fake_study(study.run_dir, modes={"think": study.modes["think"], "hot": ["evaluation.temperature=1.5"]})
    [run] = [run for run in runs_of(less, CONFIGS) if run.name == name]
    perform(run, less, Workers(), View, COMMAND)
    last = read_result(folder / RESULT)
    assert (fake.modes[-1], list(last.scores)) == (["hot"], ["think", "no_think", "greedy", "hot"])
    assert last.config.keys() > after.config.keys()


def test_plans_are_right_or_wrong_for_their_prompt_and_followed_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {
        1: "<think> red circle A1 ; red circle B2 </think>",  # right, and painted so
        2: "<think> red circle A1 ; blue circle B2 </think>",  # wrong, half of it painted
        3: "<think> red circle",  # no plan
    }
    painted = read_trace(words[1])
    assert painted is not None
    picture = torch.from_numpy(render(painted, np.random.default_rng(0)))
    metadata = {"tag": "counting", "prompt": "two red circles", "include": [{"class": "circle", "count": 2, "color": "red"}]}
    group = fake_group(0, "counting", [1.0, 0.0, 0.0])
    thoughts_G = tuple(Thought(token_ids=(token,), behavior_logp=(0.0,), truncated=False, policy_version=0) for token in words)
    group = replace(group, prompt=replace(group.prompt, metadata=metadata), thoughts=thoughts_G)
    painting: Any = type("FakePainting", (), {"image_HW3": picture})
    monkeypatch.setattr(thoughts, "paintings_of", lambda groups, timeout: [[painting] * 3 for _ in groups])
    found = plan_scores([group], lambda token_ids: words[token_ids[0]], timeout=1.0)
    assert found == {"plan_correct": pytest.approx(1 / 3), "follow": pytest.approx(0.75)}
