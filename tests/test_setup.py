"""The set-up without the network: its messages and stages against a stand-in Python, the lock, and what a wheel holds."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = [line for line in (ROOT / "requirements" / "cpu.lock").read_text().splitlines() if not line.startswith("#")]

STAND_IN_PYTHON = """#!/bin/sh
[ "$1" = --version ] && echo "Python $VERSION" && exit
case "$*" in
    *version_info*) case $VERSION in 3.11* | 3.12*) exit 0 ;; *) exit 1 ;; esac ;;
    *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *"pip "*install*) echo "$*" >>calls; case "$*" in *"$REFUSED") echo "no $REFUSED"; exit 1 ;; esac ;;
    *check_imports*) echo "$*" >>calls ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that the set-up reads, in a folder of their own, and a bin folder of stand-ins for Python."""
    for place in ("scripts/setup_cpu.sh", "requirements/cpu.lock", "pyproject.toml"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / place, tmp_path / place)
    (tmp_path / "bin").mkdir()
    for name in ("python3", "python3.11", "python3.12"):
        (tmp_path / "bin" / name).write_text(STAND_IN_PYTHON)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def set_up(clone: Path, version: str = "3.11.2", refused: str = "nothing") -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{clone / 'bin'}:{os.environ['PATH']}", "VERSION": version, "REFUSED": refused}
    return subprocess.run(["sh", clone / "scripts" / "setup_cpu.sh"], env=env, capture_output=True, text=True, check=False)


def calls(clone: Path) -> list[str]:
    return (clone / "calls").read_text().splitlines()


@pytest.mark.parametrize("version", ["3.10.12", "3.13.1"])
def test_unsupported_python_is_named_with_the_way_out(clone: Path, version: str) -> None:
    run = set_up(clone, version=version)
    assert run.returncode == 1
    assert f"no Python 3.11 or 3.12 found (python3 is: Python {version})" in run.stderr
    assert "apt install python3.11" in run.stderr
    assert not (clone / ".venv").exists()


def test_second_set_up_does_nothing_until_the_lock_changes(clone: Path) -> None:
    first = set_up(clone)
    assert first.returncode == 0, first.stderr
    assert [line.split(" ")[-1] for line in calls(clone)] == [LOCK[0], "requirements/cpu.lock", ".", "scripts/check_imports.py"]
    assert "(1 of 5)" in first.stdout
    assert "done" in first.stdout

    second = set_up(clone)
    assert (second.returncode, second.stdout, second.stderr, len(calls(clone))) == (0, "", "", 4)

    with (clone / "requirements" / "cpu.lock").open("a") as lock:
        lock.write("# changed\n")
    third = set_up(clone)
    assert (third.returncode, len(calls(clone))) == (0, 8)
    assert "virtual environment" not in third.stdout


def test_torch_comes_from_its_own_index_where_pip_has_no_cpu_build(clone: Path) -> None:
    run = set_up(clone, refused=f"--no-deps {LOCK[0]}")
    assert run.returncode == 0, run.stderr
    assert "taking it from https://download.pytorch.org/whl/cpu" in run.stdout
    assert calls(clone)[1].endswith(f"--index-url https://download.pytorch.org/whl/cpu {LOCK[0]}")


def test_failed_stage_stops_with_its_output_and_is_taken_up_again(clone: Path) -> None:
    failed = set_up(clone, refused="cpu.lock")
    assert failed.returncode == 1
    assert "no cpu.lock" in failed.stderr
    assert ".venv/setup.log" in failed.stderr
    resumed = set_up(clone)
    assert resumed.returncode == 0
    assert "virtual environment" not in resumed.stdout


def test_lock_pins_what_the_project_asks_for_and_no_library_that_breaks_vllm() -> None:
    assert [line for line in LOCK if not re.fullmatch(r"[\w.-]+==[\w.+]+", line)] == []
    versions: dict[str, str] = {canonicalize_name(name): version for name, version in (line.split("==") for line in LOCK)}
    extras = METADATA["project"]["optional-dependencies"]
    for requirement in map(Requirement, [*METADATA["project"]["dependencies"], *extras["cpu"], *extras["dev"]]):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement
    assert versions.keys().isdisjoint({"torchvision", "torchaudio", "torchcodec"})
    assert versions["torch"].endswith("+cpu")


@pytest.mark.slow
def test_wheel_holds_packages_presets_and_checkpoint_but_no_tests(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(copy)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    homes = METADATA["tool"]["setuptools"]["packages"]
    expected = {path.relative_to(copy) for home in homes for path in (copy / home.replace(".", "/")).glob("*.py")}
    expected |= {path.relative_to(copy) for path in (copy / "configs").rglob("*.yaml")}
    data = [*(copy / "unigrpo" / "bundled").iterdir(), copy / "unigrpo" / "shapes" / "reward_model"]
    data += [copy / "reward_server" / "templates", copy / "reward_server" / "benchmarks"]
    expected |= {path.relative_to(copy) for folder in data for path in folder.glob("*") if path.is_file()}
    assert held == {path.as_posix() for path in expected}
