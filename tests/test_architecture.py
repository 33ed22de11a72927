"""Structure, kept by reading the source: who imports whom, where ray, vllm and deepspeed live, what is never called."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYER = {"configs": 0, "unigrpo": 1, "rollout_workers": 2, "reward_server": 2, "learner": 2, "cluster": 3}
OUTSIDE = {"tests", "benchmarks", "scripts"}  # may import every layer; no layer imports them
ONLY_IN = {"ray": "cluster/", "vllm": "rollout_workers/", "deepspeed": "learner/zero.py", "ray.remote": "cluster/actors.py"}
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"torch.load", "torch.save", "torch.hub.load"}
UNSAFE_SWITCHES = {"trust_remote_code", "allow_pickle"}


def sources(root: Path) -> list[Path]:
    return [path for package in LAYER for path in sorted((root / package).rglob("*.py"))]


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything a module imports, at any depth; `from a import b` counts as a and a.b."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"), args=[name, *_]
            ):
                yield str(name.value) if isinstance(name, ast.Constant) else "a name computed at run time"


def dotted(tree: ast.AST) -> Iterator[str]:
    """Every `name.attribute` expression of a module."""
    return (ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute))


def violations(root: Path, path: Path) -> set[str]:
    """What one source file does against the rules; empty for a good one."""
    place = path.relative_to(root).as_posix()
    home = place.split("/")[0]
    tree = ast.parse(path.read_text(), filename=str(path))
    names = set(imported(tree))
    packages = {name.split(".")[0] for name in names}
    used = names | packages | set(dotted(tree))
    switches = {
        node.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    }
    return {
        *(f"imports {name}" for name in packages if name != home and LAYER.get(name, -1) >= LAYER[home]),
        *(f"imports {name}" for name in packages & (OUTSIDE | UNSAFE_MODULES | {"a name computed at run time"})),
        *(f"uses {name}" for name, allowed in ONLY_IN.items() if name in used and not place.startswith(allowed)),
        *(f"uses {name}" for name in used & UNSAFE_CALLS),
        *(f"sets {name}" for name in switches & UNSAFE_SWITCHES),
    }


def undeclared(root: Path, declared: set[str]) -> set[str]:
    """Packages that pyproject lists but are not there, or are there (also without their __init__.py) but not listed."""
    present = {path.parent.relative_to(root).as_posix().replace("/", ".") for path in sources(root)}
    complete = {name for name in present if (root / name.replace(".", "/") / "__init__.py").is_file()}
    return (present | declared) - (complete & declared)


@pytest.mark.parametrize("path", sources(ROOT), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_source_keeps_to_its_layer(path: Path) -> None:
    assert violations(ROOT, path) == set()


@pytest.mark.parametrize(
    ("place", "source", "found"),
    [
        ("configs/x.py", "import unigrpo.types", "imports unigrpo"),
        ("unigrpo/x.py", "def f():\n    from learner import zero", "imports learner"),
        ("unigrpo/algo/x.py", "import importlib\nimportlib.import_module('cluster.loop')", "imports cluster"),
        ("unigrpo/x.py", "__import__(name)", "imports a name computed at run time"),
        ("learner/x.py", "from rollout_workers.reasoner import Reasoner", "imports rollout_workers"),
        ("cluster/x.py", "from tests.fakes import fake", "imports tests"),
        ("reward_server/x.py", "import ray", "uses ray"),
        ("rollout_workers/x.py", "from ray.util import placement_group", "uses ray"),
        ("cluster/x.py", "from vllm import LLM", "uses vllm"),
        ("learner/update.py", "import deepspeed.zero", "uses deepspeed"),
        ("cluster/loop.py", "import ray\n@ray.remote\nclass Actor: ...", "uses ray.remote"),
        ("cluster/loop.py", "from ray import remote", "uses ray.remote"),
        ("unigrpo/x.py", "import pickle", "imports pickle"),
        ("unigrpo/x.py", "import torch\ntorch.load('weights.pt', weights_only=True)", "uses torch.load"),
        ("learner/checkpoint.py", "from torch import save", "uses torch.save"),
        ("unigrpo/x.py", "AutoTokenizer.from_pretrained(path, trust_remote_code=True)", "sets trust_remote_code"),
        ("unigrpo/x.py", "numpy.load(path, allow_pickle=flag)", "sets allow_pickle"),
    ],
)
def test_planted_violation_is_found(tmp_path: Path, place: str, source: str, found: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert violations(tmp_path, path) == {found}


def test_allowed_source_is_passed(tmp_path: Path) -> None:
    path = tmp_path / "cluster" / "actors.py"
    path.parent.mkdir()
    path.write_text(
        "import ray\nfrom learner.update import Learner\nray.remote(Learner).remote()\nload(trust_remote_code=False)\n"
    )
    assert violations(tmp_path, path) == set()


def test_declared_packages_are_the_folders_that_hold_source() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert undeclared(ROOT, set(declared)) == set()
    assert {name.split(".")[0] for name in declared} == set(LAYER)


def test_undeclared_missing_and_incomplete_packages_are_found(tmp_path: Path) -> None:
    for place in ("configs/__init__.py", "learner/__init__.py", "unigrpo/__init__.py", "unigrpo/algo/flow.py"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    assert undeclared(tmp_path, {"configs", "unigrpo", "unigrpo.algo", "cluster"}) == {"learner", "unigrpo.algo", "cluster"}


def test_configs_load_no_heavy_library() -> None:
    code = (
        "import importlib, pkgutil, sys, configs\n"
        "for module in pkgutil.walk_packages(configs.__path__, 'configs.'): importlib.import_module(module.name)\n"
        "print({'torch', 'ray', 'vllm', 'deepspeed', 'transformers'} & set(sys.modules) or 'light')"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "light"
