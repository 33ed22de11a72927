"""The runs of a study, and how its rows' configs resolve."""

from pathlib import Path

import pytest

from cluster.stages import stages_of
from cluster.studies.plan import runs_of, sft_config, study_file
from cluster.studies.reproduce import load_study
from cluster.system import training_roles
from cluster.workers import require_alike
from configs.load import ConfigError
from configs.sections import ShapesPrompts
from configs.study import FineTuned
from tests.cluster.studies.fakes import CONFIGS, fake_study

FILES = sorted(CONFIGS.glob("*.yaml"))


def test_every_seed_of_every_row_and_start_once_and_what_trains_nothing_once_in_all(tmp_path: Path) -> None:
    runs = runs_of(fake_study(tmp_path), CONFIGS)
    of_a_seed = ["text_grpo/sft-seed{}", "unigrpo/sft-seed{}", "unigrpo/base-seed{}"]
    assert [run.name for run in runs] == ["sft/sft", *(name.format(seed) for seed in (0, 1) for name in of_a_seed)]


def test_a_part_of_the_rows_with_other_seeds(tmp_path: Path) -> None:
    runs = runs_of(fake_study(tmp_path), CONFIGS, rows=["sft", "text_grpo"], seeds=[7])
    assert [run.name for run in runs] == ["sft/sft", "text_grpo/sft-seed7"]
    with pytest.raises(ConfigError, match="there is no row fpo; rows are sft, text_grpo, unigrpo"):
        runs_of(fake_study(tmp_path), CONFIGS, rows=["fpo"])


def test_a_run_trains_from_its_start_with_its_seed_and_validates_on_prompts_for_choosing(tmp_path: Path) -> None:
    run = runs_of(fake_study(tmp_path), CONFIGS)[-1]
    config = run.config
    assert (str(config.model.path), config.seed, config.steps) == ("bundled:shapes_base", 1, 21)
    assert config.run_dir == tmp_path / "unigrpo" / "base-seed1"
    assert (config.evaluation.every, config.evaluation.prompts) == (20, ShapesPrompts(split="tuning"))
    assert config.evaluation.images_per_prompt == 1
    assert {mode: each.evaluation_thinks for mode, each in run.modes.items()} == {"think": True, "no_think": False}
    for each in run.modes.values():
        assert (each.evaluation.prompts, each.evaluation.images_per_prompt) == (ShapesPrompts(split="held_out"), 2)
        assert each.algorithm == config.algorithm


def test_a_study_says_where_all_of_its_runs_work_and_its_starts_are_made(tmp_path: Path) -> None:
    start = {"kind": "sft", "config": "../shapes_sft.yaml", "overrides": [f"run_dir={tmp_path}/sft1"]}
    cluster = {"address": "auto", "start_timeout": 900.0}
    study = fake_study(tmp_path, cluster=cluster, starts={"sft": start, "base": start})
    for run in runs_of(study, CONFIGS):
        for config in (run.config, *run.modes.values()):
            assert (config.cluster.address, config.cluster.start_timeout) == ("auto", 900.0)
    made = study.starts["sft"]
    assert isinstance(made, FineTuned)
    assert sft_config(study, made, CONFIGS).cluster.address == "auto"


def test_validation_is_in_the_headline_mode_whatever_a_row_trains_on(tmp_path: Path) -> None:
    rows = {"silent": {"config": "../shapes/flow_grpo_no_thinking.yaml"}}
    guided = ["evaluation.thinks=true", "evaluation.guidance={text_scale: 3.0, interval: [0.0, 1.0]}"]
    [run, _] = runs_of(fake_study(tmp_path, rows=rows, modes={"guided": guided, "no_think": []}), CONFIGS)
    assert not run.config.rollout.thinks
    assert run.config.evaluation_thinks
    assert run.config.evaluation.guidance == run.modes["guided"].evaluation.guidance
    assert run.config.evaluation.guidance is not None
    assert run.config.evaluation.prompts == ShapesPrompts(split="tuning")


def test_a_row_of_two_stages_shares_the_steps_out(tmp_path: Path) -> None:
    study = fake_study(tmp_path, rows={"both": {"config": "../shapes/refl_text_grpo.yaml"}})
    first, second = stages_of(runs_of(study, CONFIGS)[0].config)
    assert (first.steps, second.steps) == (11, 10)


def test_a_start_that_is_fine_tuned_is_its_last_policy(tmp_path: Path) -> None:
    overrides = ["steps=5", f"run_dir={tmp_path}/made", "seed=1"]
    start = {"kind": "sft", "config": "../shapes_sft.yaml", "overrides": overrides}
    study = fake_study(tmp_path, starts={"sft": start}, rows={"unigrpo": {"config": "../shapes/unigrpo.yaml"}})
    [run, _] = runs_of(study, CONFIGS)
    assert run.config.model.path == tmp_path / "made" / "checkpoints" / "step-000005" / "policy"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"config": "../shapes_sft.yaml"}, "is a row of a study, so its task must be train, but it is sft"),
        ({"config": "nothing.yaml"}, "does not exist"),
        ({"config": "../shapes/unigrpo.yaml", "overrides": ["algorithm.windw=1"]}, "did you mean window"),
        (
            {"config": "../shapes/random_reward.yaml", "overrides": ["evaluation.reward=null"]},
            "other/sft-seed0 is judged otherwise than sft/sft in mode think",
        ),
    ],
)
def test_rows_that_cannot_run_are_refused(tmp_path: Path, row: dict[str, object], message: str) -> None:
    sft = {"config": "../shapes/base.yaml", "trains": False}
    with pytest.raises(ConfigError, match=message):
        runs_of(fake_study(tmp_path, rows={"sft": sft, "other": row}), CONFIGS)


def test_studies_go_by_name_or_path() -> None:
    assert study_file("table1").resolve() == CONFIGS / "table1.yaml"
    assert study_file("configs/studies/cfg.yaml") == Path("configs/studies/cfg.yaml")
    with pytest.raises(ConfigError, match=r"there is no study table9; give one of cfg, nested, .*table1, table2"):
        study_file("table9")
    with pytest.raises(ConfigError, match="has task train; a study has task study"):
        load_study(Path("configs/quickstart.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_rows_of_the_studies_that_come_along_share_a_system_of_less_than_a_core(path: Path) -> None:
    runs = runs_of(load_study(path), path.parent, seeds=[0])
    bundled = [run for run in runs if str(run.config.model.path).startswith("bundled:")]
    systems = [(run.name, training_roles(stages_of(run.config)[0])) for run in bundled]
    require_alike(systems)
    roles = {role.name: role for _, roles in systems for role in roles}.values()
    assert sum(role.num_workers * role.placement.num_cpus for role in roles) < 1
