"""A fingerprint changes with what decides a verdict, and with nothing else."""

from pathlib import Path

import pytest

from reward_server.fingerprint import fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "below").mkdir(parents=True)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "model" / "below" / "config.json").write_text("{}")
    return tmp_path / "model"


def test_it_is_the_same_wherever_the_model_lies_and_whatever_else_does(folder: Path) -> None:
    before = fingerprint(folder, settings={"a": 1, "b": [2.5, None]})
    (folder / "README.md").write_text("a model")
    moved = folder.rename(folder.with_name("elsewhere"))
    assert fingerprint(moved, settings={"b": [2.5, None], "a": 1}) == before
    assert len(before) == 32


def test_contents_names_order_and_settings_change_it(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "template.txt"
    file.write_text("a template")
    seen = {fingerprint(folder, settings={}), fingerprint(folder, settings={"a": 1}), fingerprint(settings={})}
    seen |= {fingerprint(file, folder, settings={}), fingerprint(folder, file, settings={})}
    (folder / "below" / "config.json").write_text("{ }")
    seen.add(fingerprint(folder, settings={}))
    (folder / "model.safetensors").write_bytes(b"Weights")
    seen.add(fingerprint(folder, settings={}))
    (folder / "model.safetensors").rename(folder / "renamed.safetensors")
    seen.add(fingerprint(folder, settings={}))
    assert len(seen) == 8


def test_bytes_that_move_from_one_file_to_the_next_change_it(folder: Path) -> None:
    (folder / "a.txt").write_text("one two")
    (folder / "b.txt").write_text("three")
    before = fingerprint(folder, settings={})
    (folder / "a.txt").write_text("one ")
    (folder / "b.txt").write_text("twothree")
    assert fingerprint(folder, settings={}) != before


def test_paths_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        fingerprint(tmp_path / "missing", settings={})
    with pytest.raises(ValueError, match="holds no file of"):
        fingerprint(tmp_path, settings={})
