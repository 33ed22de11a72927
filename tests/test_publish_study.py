"""A study's page is published with what it links and every result, or not at all."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("publish_study", "scripts/publish_study.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def fake_runs(folder: Path, page: str) -> Path:
    runs = folder / "runs" / "studies" / "table1"
    (runs / "sft" / "sft").mkdir(parents=True)
    (runs / "README.md").write_text(page)
    (runs / "study.yaml").write_text(f"run_dir: {runs}")
    (runs / "sft" / "sft" / "result.json").write_text("{}")
    (runs / "sft" / "sft" / "policy").write_text("weights")
    Image.new("RGB", (8, 4), (255, 0, 0)).save(runs / "curves.png")
    return runs


def test_the_page_and_what_it_links_are_copied_and_nothing_that_was_there_before(publish: ModuleType, tmp_path: Path) -> None:
    fake_runs(tmp_path, "![curves](curves.png), [the paper](https://arxiv.org/abs/2603.23500), [below](#below)")
    published = tmp_path / "docs" / "results" / "table1"
    published.mkdir(parents=True)
    (published / "old.png").touch()
    publish.main("table1")
    files = {str(path.relative_to(published)) for path in published.rglob("*") if path.is_file()}
    assert files == {"README.md", "study.yaml", "curves.png", "sft/sft/result.json"}
    assert (published / "study.yaml").read_text() == "run_dir: runs/studies/table1"
    assert Image.open(published / "curves.png").convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_a_page_of_an_unfinished_study_is_refused(publish: ModuleType, tmp_path: Path) -> None:
    fake_runs(tmp_path, "**Not finished**: 1 are missing: unigrpo/sft-seed2.")
    with pytest.raises(SystemExit, match="names runs that are missing"):
        publish.main("table1")
    assert not (tmp_path / "docs").exists()
