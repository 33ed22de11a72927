"""`unigrpo reward fit` on a few pictures: files that load, agreement that was measured, the same bytes again."""

import json
from pathlib import Path

import pytest

from cluster.cli import main
from configs.load import load
from configs.schema import TrainConfig
from configs.verifiers import DifferentiableReward
from unigrpo.reward_models.load import load_reward_model

SMALL = ("pictures=64", "steps=16", "batch_size=16", "agreement_prompts=10")


@pytest.mark.slow
def test_a_fit_writes_a_model_that_loads_and_can_be_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        assert main(["reward", "fit", "configs/shapes_reward_model.yaml", *SMALL, f"run_dir={tmp_path / name}"]) == 0
    said = capsys.readouterr().out
    config = load(Path("configs/quickstart.yaml"), [said.rpartition("use it with '")[2].rstrip("'\n")])
    assert isinstance(config, TrainConfig)
    assert config.reward == DifferentiableReward(path=tmp_path / "two")
    written = {path.name for path in (tmp_path / "one").iterdir()}
    assert written == {"config.yaml", "config.json", "model.safetensors", "agreement.json"}
    for name in written - {"config.yaml"}:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    load_reward_model("shapes", tmp_path / "one")
    figures = json.loads((tmp_path / "one" / "agreement.json").read_text())
    assert {name: each["pictures"] for name, each in figures["agreement"].items()} == {
        "rendered": 20,
        "spoilt": 20,
        "painted": 20,
    }
    assert figures["agreement"]["rendered"]["right"] == 0.5

    assert main(["reward", "fit", "configs/shapes_reward_model.yaml", *SMALL, f"run_dir={tmp_path / 'one'}"]) == 2
    assert "holds a reward model already" in capsys.readouterr().err
