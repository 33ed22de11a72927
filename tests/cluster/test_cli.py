"""How `unigrpo` ends: its status, and one message where the code is not at fault."""

from pathlib import Path

import pytest

from cluster import cli, evaluate, run
from cluster.faults import Fault, Lost, Stalled, Unscored
from configs.load import ConfigError

QUICKSTART = "configs/quickstart.yaml"


@pytest.mark.parametrize(
    ("error", "status"),
    [(ConfigError("set x"), 2), (Stalled("nothing came back"), 1), (Lost("a process died"), 1), (Unscored("no score"), 1)],
)
def test_what_ends_a_run_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: ConfigError | Fault, status: int
) -> None:
    def fail(config: object) -> None:
        raise error

    monkeypatch.setattr(run, "run_training", fail)
    assert cli.main(["train", QUICKSTART]) == status
    assert capsys.readouterr().err == f"unigrpo: {error}\n"


def test_a_fault_of_the_code_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(run, "run_training", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["train", QUICKSTART])


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_training", interrupt)
    assert cli.main(["train", QUICKSTART]) == 130
    assert capsys.readouterr().err.startswith("unigrpo: interrupted; a training run goes on from its newest checkpoint")


def test_validate_prints_what_a_config_comes_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", "configs/bagel_1024.yaml"]) == 0
    said = capsys.readouterr().out
    assert "1000 steps of 32 prompts x 24 siblings = 768 samples" in said
    missing = said.count("still to be given: ")
    assert "still to be given: model.path" in said
    assert said.endswith(f"configs/bagel_1024.yaml is valid, but {missing} keys are still to be given\n")
    assert cli.main(["validate", QUICKSTART]) == 0
    assert capsys.readouterr().out.endswith(f"{QUICKSTART} is valid\n")
    assert cli.main(["validate", QUICKSTART, "prompts={kind: file, path: null}"]) == 0
    assert capsys.readouterr().out.endswith(f"{QUICKSTART} is valid, but 1 key is still to be given\n")


def test_validate_of_a_config_that_cannot_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", QUICKSTART, "reasoner.max_model_len=513"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("unigrpo: reasoner.max_model_len is 513, but the model at bundled:shapes has 512 positions")
    assert "is valid" not in captured.out


def test_a_config_goes_to_the_command_of_its_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "configs/shapes_sft.yaml"]) == 2
    assert "run `unigrpo sft configs/shapes_sft.yaml`" in capsys.readouterr().err
    assert cli.main(["sft", QUICKSTART]) == 2
    assert "run `unigrpo train configs/quickstart.yaml`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "seed=3", "--config", QUICKSTART],
        ["run", "--config", QUICKSTART, "seed=3"],
        ["--config", QUICKSTART, "run", "seed=3"],
    ],
)
def test_overrides_may_stand_on_either_side_of_an_option(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    asked: list[object] = []
    monkeypatch.setattr(evaluate, "run_evaluation", lambda *given, **named: asked.extend([*given, named["config_path"]]))
    assert cli.main(["evaluate", *arguments]) == 0
    assert asked == [Path("run"), ["seed=3"], Path(QUICKSTART)]


def test_what_is_no_override_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["evaluate", "run", "--confg", QUICKSTART])
    assert "unrecognized arguments: --confg" in capsys.readouterr().err


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["evaluate", "run", "--benchmark", "gen_eval"])
    assert "invalid choice: 'gen_eval' (choose from" in capsys.readouterr().err


def test_validate_looks_into_every_row_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", "configs/studies/cfg.yaml"]) == 0
    assert "5 rows, 13 runs of 80 steps each" in capsys.readouterr().out
    assert cli.main(["validate", "configs/studies/cfg.yaml", "rows.guided_training.config=nothing.yaml"]) == 2
    assert "configs/studies/nothing.yaml does not exist" in capsys.readouterr().err


def test_reproduce_hands_on_rows_seeds_and_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.studies import reproduce

    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(reproduce, "run_study", lambda *arguments, **named: calls.append((*arguments, named)))
    assert cli.main(["reproduce", "table1", "--rows", "sft,unigrpo", "steps=2", "--seeds", "3,4"]) == 0
    assert cli.main(["reproduce", "cfg", "--report"]) == 0
    assert calls == [
        ("table1", ["steps=2"], {"rows": ("sft", "unigrpo"), "seeds": (3, 4), "only_report": False}),
        ("cfg", [], {"rows": (), "seeds": (), "only_report": True}),
    ]
