"""Checkpoints through the learner: bit-equal resumption, damage, full disks, other configs."""

import json
import resource
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from configs.load import ConfigError
from learner.checkpoint import _crc32, check_resumable, newest_checkpoint, read_state
from learner.learner import Learner
from learner.optimizer import Rank
from learner.zero import KINDS
from tests.learner.tiny import make_config, make_learner, sample_step, save_tiny_model
from unigrpo.models.bagel.checkpoint import load_model

ADVANTAGES = (1.0, -1.0, 0.5, -0.5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "start")


def everything(learner: Learner) -> dict[str, Tensor]:
    """Masters, moments and the update count."""
    engine = learner._engine
    state = {f"{kind}/{name}": value.clone() for kind in KINDS for name, value in engine.state(kind)}
    return state | {"updates": torch.tensor(engine.updates)}


def train(learner: Learner, config: Any, steps: range) -> None:
    for step in steps:
        learner.update(step, [sample_step(config, step, ADVANTAGES)])


@pytest.mark.parametrize("stage", [0, 1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_a_resumed_run_is_bit_equal_to_one_that_never_stopped(stage: int, model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(
        model, tmp_path, learner__zero_stage=stage, algorithm__ppo_epochs=2, learner__decay_updates=4, learner__warmup_updates=2
    )
    learner = make_learner(config, rank)
    assert learner.restore() == 0
    train(learner, config, range(2))
    learner.save(2)
    at_save = everything(learner)
    train(learner, config, range(2, 4))

    resumed = make_learner(config, rank)
    assert resumed.restore() == 2
    assert_close(everything(resumed), at_save, rtol=0, atol=0)
    train(resumed, config, range(2, 4))
    assert_close(everything(resumed), everything(learner), rtol=0, atol=0)


def test_another_zero_stage_reads_the_same_tensors(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path, learner__zero_stage=1)
    learner = make_learner(config, rank)
    train(learner, config, range(1))
    learner.save(1)
    saved = everything(learner)
    path = tmp_path / "checkpoints" / "step-000001" / "state.json"
    state = json.loads(path.read_text())
    state["config"]["learner"]["zero_stage"] = 3
    path.write_text(json.dumps(state))
    _forge_manifest(path.parent)
    other = make_learner(make_config(model, tmp_path, learner__zero_stage=3), rank)
    assert other.restore() == 1
    assert_close(everything(other), saved, rtol=0, atol=0)


def test_the_policy_folder_is_a_model_of_the_released_layout(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path)
    learner = make_learner(config, rank)
    train(learner, config, range(1))
    learner.save(1)
    policy = load_model(tmp_path / "checkpoints" / "step-000001" / "policy")
    masters = dict(learner._engine.state("master"))
    assert_close(dict(policy.model.named_parameters()), masters, rtol=0, atol=0, check_stride=False)
    assert_close(policy.autoencoder.state_dict(), load_model(model).autoencoder.state_dict(), rtol=0, atol=0)
    assert policy.config == load_model(model).config


def test_only_the_newest_are_kept(model: Path, tmp_path: Path, rank: Rank) -> None:
    learner = make_learner(make_config(model, tmp_path, checkpoint={"keep": 2}), rank)
    for step in (1, 2, 10):
        learner.save(step)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000002", "step-000010"]
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.name == "step-000010"
    assert newest_checkpoint(tmp_path / "nothing") is None


def test_a_half_written_or_half_removed_folder_is_not_a_checkpoint(model: Path, tmp_path: Path, rank: Rank) -> None:
    learner = make_learner(make_config(model, tmp_path), rank)
    learner.save(1)
    folder = tmp_path / "checkpoints"
    (folder / "step-000002").mkdir()
    (folder / ".step-000003.partial" / "policy").mkdir(parents=True)
    assert learner.restore() == 1
    learner.save(4)
    assert not (folder / ".step-000003.partial").exists()


@contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """Writes beyond this size fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("num_bytes", [100, 20_000])
def test_a_full_disk_leaves_the_previous_checkpoint_and_nothing_else(
    num_bytes: int, model: Path, tmp_path: Path, rank: Rank
) -> None:
    config = make_config(model, tmp_path)
    learner = make_learner(config, rank)
    learner.save(1)
    saved = everything(learner)
    train(learner, config, range(1, 2))
    with files_up_to(num_bytes), pytest.raises(OSError, match=r"step-000002 could not be saved .* what was there before is"):
        learner.save(2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    resumed = make_learner(config, rank)
    assert resumed.restore() == 1
    assert_close(everything(resumed), saved, rtol=0, atol=0)


def test_the_manifest_is_of_the_files_and_what_the_learner_wrote_is_not_read_for_it(
    model: Path, tmp_path: Path, rank: Rank
) -> None:
    learner = make_learner(config := make_config(model, tmp_path), rank)
    train(learner, config, range(1))
    with patch("learner.checkpoint._crc32", side_effect=_crc32) as reads:
        learner.save(1)
    folder = tmp_path / "checkpoints" / "step-000001"
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del contents["manifest.json"]
    assert json.loads((folder / "manifest.json").read_text()) == {
        name: {"bytes": len(content), "crc32": zlib.crc32(content)} for name, content in contents.items()
    }
    written = {"ema.safetensors", "exp_avg.safetensors", "exp_avg_sq.safetensors"}
    assert {call.args[0].name for call in reads.mock_calls} == {Path(name).name for name in contents} - written


@pytest.mark.parametrize("name", ["policy/ema.safetensors", "exp_avg.safetensors", "exp_avg_sq.safetensors", "state.json"])
def test_damage_is_refused_with_the_file_named(name: str, model: Path, tmp_path: Path, rank: Rank) -> None:
    learner = make_learner(make_config(model, tmp_path), rank)
    learner.save(1)
    path = tmp_path / "checkpoints" / "step-000001" / name
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    with pytest.raises(
        ValueError, match=rf"{name} has {len(content) - 8} bytes instead of {len(content)}; remove .*step-000001"
    ):
        learner.restore()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=rf"{name} has another checksum"):
        learner.restore()
    path.unlink()
    with pytest.raises(ValueError, match=rf"{name} has no bytes"):
        learner.restore()


def test_a_tensor_that_is_missing_or_misshapen_is_named(model: Path, tmp_path: Path, rank: Rank) -> None:
    learner = make_learner(make_config(model, tmp_path), rank)
    learner.save(1)
    folder = tmp_path / "checkpoints" / "step-000001"
    from safetensors.torch import save_file

    moments = load_file(folder / "exp_avg.safetensors")
    moments["llm2vae.weight"] = moments["llm2vae.weight"][:1].contiguous()
    save_file(moments, folder / "exp_avg.safetensors")
    _forge_manifest(folder)
    with pytest.raises(ValueError, match=r"llm2vae.weight in .*exp_avg.safetensors has shape \(1, 32\) instead of \(16, 32\)"):
        learner.restore()


def test_another_config_is_refused_and_the_keys_named(model: Path, tmp_path: Path, rank: Rank) -> None:
    make_learner(make_config(model, tmp_path), rank).save(1)
    changed = make_config(model, tmp_path, learner__text_learning_rate=0.5, seed=9)
    message = r"learner.text_learning_rate was 0.001 and is 0.5; seed was 3 and is 9\. A resumed run may change steps"
    with pytest.raises(ConfigError, match=message):
        check_resumable(changed)
    with pytest.raises(ConfigError, match=message):
        make_learner(changed, rank).restore()


def test_keys_that_an_older_version_did_not_have_count_as_their_defaults(model: Path, tmp_path: Path, rank: Rank) -> None:
    make_learner(make_config(model, tmp_path), rank).save(1)
    state = tmp_path / "checkpoints" / "step-000001" / "state.json"
    values = json.loads(state.read_text())
    for key in ("trains", "vision_learning_rate"):
        del values["config"]["learner"][key]
    state.write_text(json.dumps(values))
    check_resumable(make_config(model, tmp_path))
    with pytest.raises(ConfigError, match=r"learner.trains was None and is \['text', 'generation'\]"):
        check_resumable(make_config(model, tmp_path, learner__trains=["text", "generation"]))


def test_steps_logging_and_evaluation_may_change(model: Path, tmp_path: Path, rank: Rank) -> None:
    make_learner(make_config(model, tmp_path), rank).save(1)
    changed = make_config(model, tmp_path, steps=9, logging={"samples_every": 3}, evaluation={"every": 2})
    assert make_learner(changed, rank).restore() == 1


def test_where_work_runs_and_how_long_it_is_waited_for_may_change_and_who_judges_may_not(
    model: Path, tmp_path: Path, rank: Rank
) -> None:
    judge = {"kind": "http", "remote": {"endpoints": ["https://a.example"]}}
    make_learner(make_config(model, tmp_path, reward=judge), rank).save(1)
    moved = judge | {"remote": {"endpoints": ["https://b.example"], "call_timeout": 9}, "outage": "stop", "num_workers": 2}
    check_resumable(make_config(model, tmp_path, reward=moved, cluster={"address": "auto"}, denoiser={"num_workers": 2}))
    with pytest.raises(ConfigError, match=r"reward.kind was 'http' and is 'random'"):
        check_resumable(make_config(model, tmp_path))


def test_parts_of_a_reward_that_are_named_like_free_keys_are_not_free(model: Path, tmp_path: Path, rank: Rank) -> None:
    def combined(kind: str, weight: float, workers: int) -> dict[str, Any]:
        parts = {"remote": {"kind": kind, "num_workers": workers}, "outage": {"kind": "random"}}
        return {"kind": "combined", "parts": parts, "weights": {"remote": 1.0, "outage": weight}}

    make_learner(make_config(model, tmp_path, reward=combined("ocr", 1.0, 1)), rank).save(1)
    check_resumable(make_config(model, tmp_path, reward=combined("ocr", 1.0, 2)))
    for reward, key in (
        (combined("random", 1.0, 1), "reward.parts.remote.kind"),
        (combined("ocr", 2.0, 1), "reward.weights.outage"),
    ):
        with pytest.raises(ConfigError, match=f"{key} was"):
            check_resumable(make_config(model, tmp_path, reward=reward))


def test_another_reference_is_refused(model: Path, tmp_path: Path, rank: Rank) -> None:
    learner = make_learner(make_config(model, tmp_path), rank)
    learner.save(1)
    learner._reference_hash = "0" * 64
    with pytest.raises(ValueError, match="a run keeps its reference"):
        learner.restore()


def test_another_format_is_refused(model: Path, tmp_path: Path, rank: Rank) -> None:
    make_learner(make_config(model, tmp_path), rank).save(1)
    folder = tmp_path / "checkpoints" / "step-000001"
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"format": 2}))
    with pytest.raises(ValueError, match="has format 2, this version reads 1"):
        read_state(folder)


def _forge_manifest(folder: Path) -> None:
    """Make a manifest agree with files that a test changed on purpose."""
    manifest = json.loads((folder / "manifest.json").read_text())
    sizes = {name: {"bytes": (folder / name).stat().st_size, "crc32": _crc32(folder / name)} for name in manifest}
    (folder / "manifest.json").write_text(json.dumps(sizes))
