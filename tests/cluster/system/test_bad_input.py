"""What cannot run ends with status 2 and one message that names the value and the way out, and nothing is lost."""

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import load_file, save_file

from cluster import cli
from cluster.run import explained
from configs.load import ConfigError
from configs.schema import TrainConfig
from learner.checkpoint import State, write_checkpoint
from learner.start import Start
from tests.cluster.system.runs import Command, run_config, run_values, write_config

slow = pytest.mark.slow
NORM = "language_model.model.norm.weight"


def refused(tmp_path: Path, values: dict[str, Any], capsys: pytest.CaptureFixture[str], command: str = "train") -> str:
    """What `unigrpo train` says of a config that it refuses before Ray starts."""
    assert cli.main([command, str(write_config(tmp_path / "config.yaml", values))]) == 2
    assert not ray.is_initialized()
    output = capsys.readouterr()
    assert output.err.startswith("unigrpo: ")
    return output.err


def tensors_of(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "ema.safetensors")


def without_a_norm(model: Path) -> None:
    save_file({name: value for name, value in tensors_of(model).items() if name != NORM}, model / "ema.safetensors")


def with_another_tensor(model: Path) -> None:
    save_file({**tensors_of(model), "lm_tail.weight": torch.zeros(2)}, model / "ema.safetensors")


def with_a_longer_norm(model: Path) -> None:
    save_file({**tensors_of(model), NORM: torch.ones(65)}, model / "ema.safetensors")


def cut_short(model: Path) -> None:
    path = model / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def cut_in_the_header(model: Path) -> None:
    path = model / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def with_a_cut_autoencoder(model: Path) -> None:
    path = model / "ae.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def without_a_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


@pytest.mark.parametrize("command", ["train", "validate"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_a_norm, rf"ema\.safetensors lacks {re.escape(NORM)}, which the config asks for"),
        (with_another_tensor, r"ema\.safetensors holds lm_tail\.weight, which the config has no place for"),
        (with_a_longer_norm, rf"{re.escape(NORM)} in .*ema\.safetensors is \[65\], the config asks for \[64\]"),
        (cut_short, r"ema\.safetensors cannot be read .*truncated or damaged; copy it again"),
        (cut_in_the_header, r"ema\.safetensors cannot be read .*truncated or damaged; copy it again"),
        (with_a_cut_autoencoder, r"ae\.safetensors cannot be read .*truncated or damaged; copy it again"),
        (without_a_tokenizer, r"tokenizer\.json is missing; copy the model's tokenizer there"),
    ],
)
def test_a_damaged_checkpoint(
    start: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    shutil.copytree(start / "model", tmp_path / "model")
    damage(tmp_path / "model")
    values = run_values(start, tmp_path / "run", {"model.path": str(tmp_path / "model")})
    said = refused(tmp_path, values, capsys, command)
    assert said.startswith("unigrpo: model.path: ")
    assert re.search(message, said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["prompts", "evaluation.prompts"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"tag": "counting", "include": [', "not valid JSON"),
        (json.dumps({"tag": "counting", "include": [{"class": "circle"}], "prompt": "a circle"}), "lacks ['count']"),
        (json.dumps({"tag": "counting", "include": []}), "prompt is None"),
    ],
)
def test_a_broken_line_in_a_prompt_file(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, line: str, message: str
) -> None:
    prompts = tmp_path / "broken.jsonl"
    prompts.write_text((start / "prompts.jsonl").read_text() + line + "\n")
    judge = {"kind": "geneval", "detector": "shapes"}
    said = refused(
        tmp_path, run_values(start, tmp_path / "run", {"reward": judge, key: {"kind": "file", "path": str(prompts)}}), capsys
    )
    assert f"{prompts}:7: " in said
    assert message in said


def test_a_prompt_longer_than_the_context(start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = json.loads((start / "prompts.jsonl").read_text().splitlines()[0])
    prompts = tmp_path / "long.jsonl"
    prompts.write_text(json.dumps({**row, "prompt": "red " * 40}) + "\n")
    said = refused(tmp_path, run_values(start, tmp_path / "run", {"prompts": {"kind": "file", "path": str(prompts)}}), capsys)
    assert "'red red red" in said
    assert "has 43 tokens with its system prompt, but reasoner.max_model_len=48 leaves 36" in said
    assert "raise the first, lower the second or shorten the prompt" in said


def test_resuming_with_another_config(start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run_config(start, tmp_path / "run")
    folder = checkpoint_of(config)
    before = contents(folder)
    said = refused(tmp_path, run_values(start, tmp_path / "run", {"learner.text_learning_rate": 0.5, "steps": 9}), capsys)
    assert f"{folder} was written by another config: learner.text_learning_rate was 0.001 and is 0.5." in said
    assert "set these back, or give another run_dir" in said
    assert contents(folder) == before
    assert not (tmp_path / "run" / "config.yaml").exists()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def checkpoint_of(config: TrainConfig) -> Path:
    """A checkpoint of step 2, as the run would have written it."""
    assert config.model.path is not None
    start = Start(config.model.path)
    weights = {name: start.tensor(name) for name in start.shapes}
    state = State(step=2, updates=2, reference_hash="", config=config.model_dump(mode="json"))
    tensors: Any = {"master": weights, "exp_avg": weights, "exp_avg_sq": weights}
    return write_checkpoint(config.run_dir / "checkpoints", tensors, state, start, keep=2)


def test_a_disk_that_fills_under_metrics_or_samples() -> None:
    with pytest.raises(ConfigError, match=r"disk of run_dir is full .*free some space and start again"), explained():
        Path("/dev/full").write_text("a row")


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "127.0.0.1", "nowhere.invalid:6379"])
def test_a_cluster_that_does_not_answer(start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = address.format(port=closed.getsockname()[1])
        said = refused(tmp_path, run_values(start, tmp_path / "run", {"cluster.address": address}), capsys)
    assert said.startswith(f"unigrpo: cluster.address is {address}, and no Ray answers there (")
    assert "start one with `ray start --head`, or use cluster.address=local" in said


def message_of(command: Command, config: Path, **environment: str) -> str:
    """The last line that a run with status 2 prints, which is no part of a traceback."""
    run = command("train", config, **environment)
    output, _ = run.communicate(timeout=500)
    assert run.returncode == 2, output
    assert "Traceback" not in output
    return str(output.splitlines()[-1])


@slow
@pytest.mark.timeout(600)
def test_too_few_cpus_for_the_placement(command: Command, start: Path, tmp_path: Path) -> None:
    config = run_values(start, tmp_path / "run", {"denoiser": {"num_workers": 3, "placement": {"num_cpus": 100}}})
    said = message_of(command, write_config(tmp_path / "config.yaml", config))
    assert re.match(
        r"unigrpo: the roles ask for 300\.6 CPU \(learner 1 x 0\.2, reasoner 1 x 0\.2, denoiser 3 x 100, reward 1 x 0\.2\), "
        r"but the Ray cluster has \d+ in all; lower num_workers, num_ranks or placement of a role",
        said,
    )


@slow
@pytest.mark.timeout(600)
def test_no_vllm(command: Command, start: Path, tmp_path: Path) -> None:
    shadow = tmp_path / "vllm" / "__init__.py"
    shadow.parent.mkdir()
    shadow.write_text('raise ModuleNotFoundError("No module named \'vllm\'", name="vllm")\n')
    config = write_config(tmp_path / "config.yaml", run_values(start, tmp_path / "run"))
    said = message_of(command, config, PYTHONPATH=str(tmp_path))
    assert said.startswith("unigrpo: a reasoner needs vLLM, which is not installed; run `make setup`")
