"""The studies that come with the package, and what a study refuses."""

from pathlib import Path
from typing import Any

import pytest

from configs.load import ConfigError, load, parse
from configs.schema import TrainConfig
from configs.study import StudyConfig

FILES = sorted(Path("configs/studies").glob("*.yaml"))
ASKED = {"table1", "table2", "cfg", "regulariser", "objective", "rollouts", "nested"}


def values(**changes: Any) -> dict[str, Any]:
    return {
        "task": "study",
        "name": "x",
        "question": "?",
        "run_dir": "runs/x",
        "steps": 2,
        "starts": {"sft": {"kind": "checkpoint", "path": "bundled:shapes"}},
        "modes": {"think": ["evaluation.thinks=true"]},
        "rows": {"unigrpo": {"config": "../shapes/unigrpo.yaml"}},
        **changes,
    }


def test_every_study_is_there() -> None:
    assert {path.stem for path in FILES} >= ASKED


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_studies_have_three_seeds_and_are_named_as_their_files_and_those_that_compare_have_a_control(path: Path) -> None:
    study = load(path)
    assert isinstance(study, StudyConfig)
    assert study.name == path.stem == study.run_dir.name
    assert len(study.seeds) >= 3 or path.stem == "rates", "a choice on tuning prompts may rest on one seed"
    assert study.control in study.rows or path.stem not in ASKED


def test_what_is_trained_without_thoughts_in_table_2_stands_beside_the_same_trained_on_them() -> None:
    study = load(Path("configs/studies/table2.yaml"))
    assert isinstance(study, StudyConfig)
    for silent, thinking in (("refl", "refl_thinking"), ("fpo_no_thinking", "fpo"), ("flow_grpo_no_thinking", "flow_grpo")):
        configs = [load(Path("configs/studies") / study.rows[row].config) for row in (silent, thinking)]
        assert all(isinstance(config, TrainConfig) for config in configs)
        one, other = [config.model_dump(exclude={"run_dir"}) for config in configs]
        assert (one["rollout"].pop("thinks"), other["rollout"].pop("thinks")) == (False, True)
        assert one == other


def test_a_row_starts_from_the_first_start_unless_it_says_otherwise() -> None:
    study = parse(values(), source="test")
    assert isinstance(study, StudyConfig)
    assert study.starts_of(study.rows["unigrpo"]) == ("sft",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1, 1]}, r"seeds are \[1, 1\]; give each once"),
        ({"seeds": []}, "seeds"),
        ({"control": "none"}, "control is none, which is no row; rows are unigrpo"),
        ({"rows": {"a": {"config": "x.yaml", "starts": ["base"]}}}, "rows.a.starts names base; known are sft"),
        ({"rows": {"a": {"config": "x.yaml", "paper": {"guided": 0.9}}}}, "rows.a.paper names guided; known are think"),
        ({"rows": {"a": {"config": "x.yaml", "starts": ["sft", "sft"]}}}, "rows.a.starts is .*; give each once"),
        ({"rows": {"A B": {"config": "x.yaml"}}}, "rows.A B"),
        ({"modes": {"think": ["rollout.thinks=true"]}}, "modes.think sets rollout.thinks=true; a mode sets keys of"),
        ({"modes": {"think": ["evaluation.reward={kind: random}"]}}, "modes.think sets evaluation.reward"),
        ({"modes": {"think": ["evaluation.images_per_prompt=4"]}}, "modes.think sets evaluation.images_per_prompt"),
        ({"starts": {"sft": {"kind": "checkpoint"}}}, "starts.sft.path: Field required"),
        ({"laness": 2}, "laness: unknown key; did you mean lanes"),
    ],
)
def test_what_cannot_be_a_study_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(values(**changes), source="test")
