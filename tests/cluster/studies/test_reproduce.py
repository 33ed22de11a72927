"""Which runs of a study are tried again, what is refused before any of them, and when a start is made again."""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml

from cluster.faults import Fault, Lost, Stalled
from cluster.studies import reproduce as module
from cluster.studies.lanes import Failure
from cluster.studies.plan import Run, runs_of
from cluster.studies.reproduce import make_starts, plan_text, run_all, run_study
from cluster.studies.result import settings
from configs.load import ConfigError, load, model_folder
from configs.schema import SftConfig
from configs.study import StudyConfig
from learner.start import Start
from tests.cluster.studies.fakes import CONFIGS, fake_result, fake_study

Outcome = tuple[list[Failure], list[Run]]


class FakeSessions:
    """Attempts of one lane, which ends with the first run that fails; remembers what it came to in each session."""

    def __init__(self, faults: Callable[[Run], Exception | None]) -> None:
        self.sessions: list[list[str]] = []
        self._faults = faults

    def __call__(self, runs: Sequence[Run]) -> Outcome:
        came_to: list[str] = []
        self.sessions.append(came_to)
        for place, run in enumerate(runs):
            came_to.append(run.name)
            if (fault := self._faults(run)) is not None:
                return [Failure(run=run, error=fault)], list(runs[place + 1 :])
        return [], []


def test_what_is_to_do_is_told(tmp_path: Path) -> None:
    study = fake_study(tmp_path)
    assert plan_text(study, [[], ["think", "no_think"]]) == "1 of 2 runs are finished, 1 to go"
    told = "1 of 3 runs are finished, 2 to go; of these ended, but without scores of no_think: 1"
    assert plan_text(study, [[], ["no_think"], ["think", "no_think"]]) == told


def test_a_run_that_always_fails_does_not_keep_the_others_from_their_end(tmp_path: Path) -> None:
    first, second, third = runs_of(fake_study(tmp_path), CONFIGS)[:3]
    attempt = FakeSessions(lambda run: ConfigError("broken") if run is second else None)
    failed = run_all([first, second, third], attempt)
    assert attempt.sessions == [[first.name, second.name], [third.name]]
    assert [(each.run, str(each.error)) for each in failed] == [(second, "broken")]


@pytest.mark.parametrize("kind", [Lost, Stalled])
def test_what_a_lost_worker_ended_is_tried_once_more_after_the_others(tmp_path: Path, kind: type[Fault]) -> None:
    first, second, third = runs_of(fake_study(tmp_path), CONFIGS)[:3]
    attempt = FakeSessions(lambda run: kind("gone") if run is first else None)
    assert [each.run for each in run_all([first, second, third], attempt)] == [first]
    assert attempt.sessions == [[first.name], [second.name, third.name, first.name]]
    faults: list[Exception | None] = [kind("gone"), None]
    passing = FakeSessions(lambda run: faults.pop(0))
    assert run_all([first], passing) == []


@pytest.mark.parametrize(("asked", "lanes"), [(None, 2), (1, 1), (3, 2)])
def test_as_many_lanes_as_asked_for_and_have_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: int | None, lanes: int
) -> None:
    study, told = fake_study(tmp_path, lanes=asked), list[int]()
    for name, stand_in in (
        ("session", nullcontext),
        ("connect", lambda config: None),
        ("num_that_fit", lambda roles, total: 2),
        ("run_lanes", lambda runs, num_lanes, work: told.append(num_lanes)),
    ):
        monkeypatch.setattr(module, name, stand_in)
    monkeypatch.setattr("ray.cluster_resources", dict)
    module._one_session(study, runs_of(study, CONFIGS), [], {})
    assert told == [lanes]
    assert ("lanes is 3, but the cluster has room for 2" in capsys.readouterr().out) == (asked == 3)


def saved(study: StudyConfig, folder: Path) -> str:
    values = json.loads(study.model_dump_json())
    for row in values["rows"].values():
        row["config"] = str(CONFIGS / row["config"])
    path = folder / "fake.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return str(path)


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of studies that a report was asked of."""
    names: list[str] = []

    def write_report(study: StudyConfig, name: str) -> Path:
        names.append(study.name)
        return study.run_dir / "README.md"

    monkeypatch.setattr(module, "write_report", write_report)
    return names


def test_what_failed_is_told_after_the_report(tmp_path: Path, reported: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    study = fake_study(tmp_path / "study")
    run = runs_of(study, CONFIGS)[1]
    monkeypatch.setattr(module, "_run_open", lambda *_: [Failure(run=run, error=Lost("rank 0 died"))])
    told = r"fake: 1 of its runs failed; .*\n  text_grpo/sft-seed0: rank 0 died"
    with pytest.raises(Fault, match=told):
        run_study(saved(study, tmp_path), [])
    assert reported == []  # nothing is finished
    fake_result("sft", "sft", None, 0.5).write(study.run_dir / "sft" / "sft")
    with pytest.raises(Fault, match=told):
        run_study(saved(study, tmp_path), [])
    assert reported == ["fake"]


def test_a_row_of_another_study_is_refused_before_anything_runs(
    tmp_path: Path, reported: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "run_all", lambda runs, attempt: [])
    study = fake_study(tmp_path / "study")
    run = runs_of(study, CONFIGS, rows=["unigrpo"])[0]
    fake_result("unigrpo", "sft", 0, 0.7, config=settings(run)).write(run.config.run_dir)
    with pytest.raises(
        ConfigError,
        match=r"runs of this study cannot share a table: steps of all stages is 21 in unigrpo/sft-seed0",
    ):
        run_study(saved(study, tmp_path), ["steps=10"], rows=["unigrpo"], seeds=[7])
    assert reported == []
    assert not (study.run_dir / "study.yaml").exists()


def made_start(folder: Path, reference_hash: str) -> StudyConfig:
    """A study whose start is there, made from weights with this hash."""
    overrides = ["steps=5", f"run_dir={folder}/made"]
    config = load(CONFIGS / "../shapes_sft.yaml", overrides)
    checkpoint = folder / "made" / "checkpoints" / "step-000005"
    (checkpoint / "policy").mkdir(parents=True)
    state = {"step": 5, "updates": 5, "reference_hash": reference_hash, "format": 1}
    (checkpoint / "state.json").write_text(json.dumps(state | {"config": config.model_dump(mode="json")}))
    (checkpoint / "manifest.json").write_text("{}")
    start = {"kind": "sft", "config": "../shapes_sft.yaml", "overrides": overrides}
    return fake_study(folder, starts={"made": start}, rows={"unigrpo": {"config": "../shapes/unigrpo.yaml"}})


@pytest.fixture(scope="module")
def base_hash() -> str:
    return Start(model_folder(Path("bundled:shapes_base"))).hash(torch.float32)


def test_a_start_that_is_there_is_not_made_again(tmp_path: Path, base_hash: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[SftConfig] = []
    monkeypatch.setattr(module, "run_sft", made.append)
    study = made_start(tmp_path, base_hash)
    make_starts(study, CONFIGS, {"made"})
    assert made == []
    absent = made_start(tmp_path / "other", base_hash)
    (tmp_path / "other" / "made" / "checkpoints" / "step-000005" / "policy").rmdir()
    make_starts(absent, CONFIGS, {"made"})
    assert [config.steps for config in made] == [5]


def test_a_start_made_with_another_config_is_refused(tmp_path: Path, base_hash: str) -> None:
    study = made_start(tmp_path, base_hash)
    path = tmp_path / "made" / "checkpoints" / "step-000005" / "state.json"
    state = json.loads(path.read_text())
    state["config"]["seed"] = 9
    path.write_text(json.dumps(state))
    with pytest.raises(ConfigError, match="written by another config: seed was 9 and is 0"):
        make_starts(study, CONFIGS, {"made"})


def test_a_start_made_from_other_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"start made in .* was made from weights with hash old, but .*shapes_base has "):
        make_starts(made_start(tmp_path, "old"), CONFIGS, {"made"})
