"""`unigrpo export` and what it and `unigrpo validate` say to folders that hold no policy."""

import json
import resource
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster import cli, export
from configs.load import dump, load
from tests.unigrpo.models.fakes import random_autoencoder
from tests.unigrpo.models.released import SEEING
from tests.unigrpo.released_tokenizer import SPECIAL_TOKENS, save_released_tokenizer, with_its_tokens
from unigrpo.models.bagel.checkpoint import load_model, save_model, write_policy
from unigrpo.models.bagel.model import Bagel

CONFIG = with_its_tokens(SEEING)
NORM = "language_model.model.norm_moe_gen.weight"
UND_NORM = "language_model.model.norm.weight"
QUICKSTART = "configs/quickstart.yaml"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of the steps 1 and 2."""
    folder = tmp_path_factory.mktemp("saved")
    save_released_tokenizer(folder)
    (folder / "generation_config.json").write_text('{"repetition_penalty": 1.05}')
    for step in (1, 2):
        torch.manual_seed(step)
        checkpoint = folder / "run" / "checkpoints" / f"step-{step:06d}"
        weights = Bagel(CONFIG).state_dict()
        save_model(checkpoint / "policy", weights, random_autoencoder(), CONFIG, tokenizer_path=folder / "tokenizer.json")
        (checkpoint / "manifest.json").write_text("{}")
    return folder / "run"


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


@pytest.fixture
def policy(run: Path) -> Path:
    """In the released layout: that of the newest checkpoint."""
    return run / "checkpoints" / "step-000002" / "policy"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_exported_policy_loads_bit_equal(run: Path, policy: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    to = tmp_path / "new" / "exported"
    assert cli.main(["export", str(run), "--to", str(to), "--dtype", str(dtype).removeprefix("torch.")]) == 0
    stored, trained = load_file(to / "ema.safetensors"), load_file(policy / "ema.safetensors")
    assert stored.keys() == trained.keys()
    assert all(torch.equal(stored[name], trained[name].to(dtype)) for name in trained)
    assert {value.dtype for value in stored.values()} == {dtype}
    loaded = load_model(to, dtype=dtype)
    assert all(torch.equal(value, stored[name]) for name, value in loaded.model.state_dict().items())
    assert loaded.config == CONFIG
    for path in policy.iterdir():
        if path.name != "ema.safetensors":
            assert (to / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in to.parent.iterdir()} == {"exported"}


@pytest.mark.parametrize(("subject", "step"), [("", 2), ("checkpoints/step-000001", 1), ("checkpoints/step-000001/policy", 1)])
def test_a_run_a_checkpoint_or_a_folder_in_the_released_layout(run: Path, tmp_path: Path, subject: str, step: int) -> None:
    export.run_export(run / subject, tmp_path / "exported", dtype=torch.float32, text_expert=False)
    torch.manual_seed(step)
    assert torch.equal(load_model(tmp_path / "exported").model.llm2vae.weight, Bagel(CONFIG).llm2vae.weight)


def test_what_was_written_and_what_comes_next(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "exported"
    to.mkdir()
    (run / "config.yaml").write_text(dump(load(Path(QUICKSTART))))
    assert cli.main(["export", str(run), "--to", str(to)]) == 0
    checking, written, following = capsys.readouterr().out.splitlines()
    assert checking == f"checking {run}/checkpoints/step-000002/policy against {run}/checkpoints/step-000002/manifest.json"
    assert written.startswith(f"wrote the policy of {run}/checkpoints/step-000002/policy into {to}: bfloat16, ")
    assert following == f"next: unigrpo evaluate {to} --config {run}/config.yaml"


def test_a_long_export_says_how_far_it_is(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "SILENT_SECONDS", -1.0)
    export.run_export(run, tmp_path / "exported", dtype=torch.float32, text_expert=False)
    lines = capsys.readouterr().out.splitlines()[1:-2]
    assert len(lines) == len(load_file(tmp_path / "exported" / "ema.safetensors"))
    assert lines[0].startswith("0 % of ")
    assert lines[-1].startswith("99 % of ")


def test_the_text_expert_is_a_qwen2_folder(run: Path, policy: Path, tmp_path: Path) -> None:
    to = tmp_path / "text"
    assert cli.main(["export", str(run), "--to", str(to), "--text-expert", "--dtype", "float32"]) == 0
    trained = load_file(policy / "ema.safetensors")
    prefix = "language_model."
    expected = {
        name.removeprefix(prefix): value for name, value in trained.items() if name.startswith(prefix) and "moe_gen" not in name
    }
    stored = load_file(to / "model.safetensors")
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], expected[name]) for name in expected)
    config = json.loads((to / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["Qwen2ForCausalLM"], "qwen2")
    assert (config["qk_norm"], config["tie_word_embeddings"], config["torch_dtype"]) == (True, False, "float32")
    assert {path.name for path in to.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
    }


def test_a_tokenizer_that_vllm_would_misread_stays_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bundled one is word-level; in a folder of Qwen2's kind transformers reads every tokenizer as Qwen2's."""
    to = tmp_path / "text"
    assert cli.main(["export", "bundled:shapes", "--to", str(to), "--text-expert"]) == 0
    assert {path.name for path in to.iterdir()} == {"config.json", "model.safetensors"}
    assert capsys.readouterr().out.endswith(f"next: vllm serve {to} --dtype bfloat16 --skip-tokenizer-init\n")


def cut(policy: Path) -> None:
    weights = policy / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])


def without_a_norm(policy: Path) -> None:
    tensors = load_file(policy / "ema.safetensors")
    del tensors[NORM]
    save_file(tensors, policy / "ema.safetensors")


def with_another_tensor(policy: Path) -> None:
    save_file(load_file(policy / "ema.safetensors") | {"lm_tail.weight": torch.zeros(1)}, policy / "ema.safetensors")


def of_another_hidden_size(policy: Path) -> None:
    llm = json.loads((policy / "llm_config.json").read_text())
    (policy / "llm_config.json").write_text(json.dumps(llm | {"hidden_size": 48}))


def no_json(policy: Path) -> None:
    (policy / "vit_config.json").write_text("hidden_size: 16")


def without_special_tokens(policy: Path) -> None:
    save_released_tokenizer(policy, special_tokens=SPECIAL_TOKENS[:9])


def with_other_ids(policy: Path) -> None:
    save_released_tokenizer(policy, special_tokens=tuple(reversed(SPECIAL_TOKENS)))


def emptied(policy: Path) -> None:
    for path in policy.iterdir():
        path.unlink()


@pytest.mark.parametrize("command", ["validate", "export"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "ema.safetensors cannot be read "),
        (without_a_norm, f"ema.safetensors lacks {NORM}, which the config asks for; "),
        (with_another_tensor, "ema.safetensors holds lm_tail.weight, which the config has no place for; "),
        (of_another_hidden_size, "ema.safetensors is [24], the config asks for [48]; "),
        (no_json, "vit_config.json is not valid JSON "),
        (without_special_tokens, "tokenizer.json does not know <|vision_start|>, <|vision_end|>, "),
        (with_other_ids, f"<|im_start|> is {CONFIG.bos_token_id + 8} in "),
        (emptied, "config.json is missing; "),
    ],
)
def test_a_folder_that_holds_no_policy(
    policy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    message: str,
    command: str,
) -> None:
    spoil(policy)
    exported = ["export", str(policy), "--to", str(tmp_path / "exported")]
    assert cli.main(["validate", QUICKSTART, f"model.path={policy}"] if command == "validate" else exported) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_validate_says_where_the_policy_of_a_run_is(run: Path, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", QUICKSTART, f"model.path={run}"]) == 2
    assert capsys.readouterr().err == (
        f"unigrpo: model.path: {run} belongs to a run and is no BAGEL checkpoint folder itself; its newest is {policy}\n"
    )


def test_what_cannot_be_exported_from_or_to(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "taken"
    (taken / "kept").mkdir(parents=True)
    shutil.copytree(
        run / "checkpoints", tmp_path / "unfinished" / "checkpoints", ignore=shutil.ignore_patterns("manifest.json")
    )
    for subject, to, message in (
        (run, taken, f"--to {taken} exists and is not an empty folder"),
        (run, Path(QUICKSTART), "exists and is not an empty folder"),
        (run, Path(QUICKSTART) / "below", "could not be saved "),
        (tmp_path / "nowhere", tmp_path / "new", "nowhere does not exist; give a run folder or a checkpoint"),
        (tmp_path / (300 * "a"), tmp_path / "new", "aaa does not exist; give a run folder or a checkpoint"),
        (Path(QUICKSTART), tmp_path / "new", f"{QUICKSTART} is not a folder"),
        (tmp_path / "unfinished", tmp_path / "new", "holds no complete checkpoint yet"),
    ):
        assert cli.main(["export", str(subject), "--to", str(to)]) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in taken.iterdir()] == ["kept"]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("below", ["", "checkpoints/step-000002/policy"])
def test_a_policy_that_is_not_what_its_manifest_says(
    run: Path, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    """A flipped bit and a shorter file; what is no part of the policy is not asked for."""
    weights, texts = policy / "ema.safetensors", policy / "merges.txt"
    files = {
        f"policy/{path.name}": {"bytes": path.stat().st_size, "crc32": zlib.crc32(path.read_bytes())}
        for path in policy.iterdir()
    }
    (policy.parent / "manifest.json").write_text(json.dumps(files | {"exp_avg.safetensors": {"bytes": 1, "crc32": 1}}))
    export.run_export(run / below, tmp_path / "good", dtype=torch.float32, text_expert=False)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    exported = ["export", str(run / below), "--to", str(tmp_path / "bad")]
    assert cli.main(exported) == 2
    assert f"{weights} has another checksum than when it was written; " in capsys.readouterr().err
    content[-1] ^= 1
    weights.write_bytes(content)
    texts.write_bytes(texts.read_bytes()[:-1])
    assert cli.main(exported) == 2
    assert f"{texts} has {texts.stat().st_size} bytes instead of " in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("text_expert", [False, True])
def test_weights_that_are_not_finite_are_not_exported(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text_expert: bool
) -> None:
    tensors = load_file(policy / "ema.safetensors")
    tensors[UND_NORM][0] = -torch.inf
    save_file(tensors, policy / "ema.safetensors")
    flags = ["--text-expert"] if text_expert else []
    assert cli.main(["export", str(policy), "--to", str(tmp_path / "exported"), *flags]) == 2
    assert f"{UND_NORM} in {policy}/ema.safetensors holds 1 numbers that are NaN or infinite" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_a_link_to_an_empty_folder_has_its_target_filled(run: Path, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    link = tmp_path / "link"
    link.symlink_to("target")
    assert cli.main(["export", str(run), "--to", str(link)]) == 0
    assert link.is_symlink()
    assert (tmp_path / "target" / "ema.safetensors").is_file()


def test_paths_that_can_be_no_folder(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dangling").symlink_to("gone")
    (tmp_path / "round").symlink_to("round")
    for name, message in (
        ("dangling", f"--to {tmp_path}/dangling is a link to {tmp_path}/gone, where nothing is; make that folder, or give"),
        ("round", f"--to '{tmp_path}/round' cannot be a folder (Symlink loop from "),
        (300 * "a", "cannot be a folder ([Errno 36] File name too long: "),
        ("a\0b", "a\\x00b' cannot be a folder (embedded null byte); give another path"),
    ):
        assert cli.main(["export", str(run), "--to", f"{tmp_path}/{name}"]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


@pytest.mark.parametrize("meanwhile", ["export", "file", "link"])
def test_a_target_that_is_filled_meanwhile_stays_as_it_is(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], meanwhile: str
) -> None:
    """Another export into the same folder, a file, a link to an empty folder: each while the weights are written."""
    to = tmp_path / "new" / "exported"

    def interrupted(*arguments: Any) -> None:
        monkeypatch.undo()
        if meanwhile == "export":
            export.run_export(run, to, dtype=torch.float32, text_expert=False)
        elif meanwhile == "file":
            to.write_text("mine")
        else:
            to.symlink_to(tmp_path)
        write_policy(*arguments)

    monkeypatch.setattr("cluster.export.write_policy", interrupted)
    assert cli.main(["export", str(run), "--to", str(to), "--dtype", "bfloat16"]) == 2
    assert capsys.readouterr().err == (
        f"unigrpo: {to} has been filled by somebody else meanwhile and stays as it is; give another\n"
    )
    assert [path.name for path in to.parent.iterdir()] == ["exported"]
    if meanwhile == "export":
        assert {tensor.dtype for tensor in load_file(to / "ema.safetensors").values()} == {torch.float32}


def test_a_folder_beside_the_target_is_left_alone(run: Path, tmp_path: Path) -> None:
    own = [tmp_path / f".exported.{state}" for state in ("partial", "previous")]
    for folder in own:
        folder.mkdir()
    assert cli.main(["export", str(run), "--to", str(tmp_path / "exported")]) == 0
    assert all(folder.is_dir() for folder in own)
    assert (tmp_path / "exported").stat().st_mode == own[0].stat().st_mode


def test_an_export_takes_no_overrides(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["export", str(run), "--to", str(tmp_path / "new"), "seed=3"])
    assert "unrecognized arguments: seed=3" in capsys.readouterr().err


@pytest.mark.parametrize("text_expert", [False, True])
def test_a_full_disk_leaves_nothing(run: Path, tmp_path: Path, text_expert: bool, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(run), "--to", str(tmp_path / "new"), *(["--text-expert"] if text_expert else [])]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        assert cli.main(arguments) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "new could not be saved" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
