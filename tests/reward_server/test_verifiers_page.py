"""docs/verifiers.md: every config on it is valid, every kind is on it, and its example runs as printed."""

import importlib.metadata
import re
import shlex
import subprocess
import sys
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from cluster.preflight import prepare
from configs.load import load, parse
from configs.reward import CombinedReward
from configs.reward_service import RewardServiceConfig
from configs.schema import TrainConfig
from configs.verifiers import PythonReward, Verifier
from reward_server.server import RewardServer
from reward_server.verifiers import python, validate_metadata
from unigrpo.types import Prompt, Score, ScoreFailure

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "verifiers.md").read_text(encoding="utf-8")
LINES = re.findall(r"^\| `(\w+)` \|.*\| `(reward: .*)` \|$", PAGE, flags=re.MULTILINE)


def block(language: str) -> str:
    """The page's only block in a language."""
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert isinstance(found, str)
    return found


def reward_of(line: str) -> typing.Any:
    config = parse({"task": "reward_service", **yaml.safe_load(line)}, source="docs/verifiers.md")
    assert isinstance(config, RewardServiceConfig)
    return config.reward


@pytest.mark.parametrize(("kind", "line"), LINES)
def test_a_line_of_the_table_is_a_whole_config(kind: str, line: str) -> None:
    reward = reward_of(line)
    assert reward.kind == kind
    assert isinstance(reward, CombinedReward) or reward.open_keys() == []


def test_every_kind_has_a_line() -> None:
    union, _ = typing.get_args(Verifier)
    kinds = {member.model_fields["kind"].default for member in typing.get_args(union)} | {"combined"}
    assert sorted(kind for kind, _ in LINES) == sorted(kinds)


@pytest.fixture
def saved_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A current folder in which the example was saved."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_folder").mkdir()
    (tmp_path / "my_folder" / "my_judges.py").write_text(block("python"), encoding="utf-8")
    yield
    sys.modules.pop("my_judges")
    python._found.cache_clear()


@pytest.mark.usefixtures("saved_example")
def test_the_example_judges_as_printed() -> None:
    reward = reward_of(dict(LINES)["python"])
    validate_metadata(reward, {"mood": "warm"})
    with pytest.raises(ValueError, match='mood is None; give "warm" or "cold"'):
        validate_metadata(reward, {})
    red = torch.tensor([255, 0, 51], dtype=torch.uint8).expand(8, 8, 3)
    prompts = [Prompt(index=0, text="a desert", metadata={"mood": mood}) for mood in ("warm", "cold", "warm")]
    warm, cold, low = RewardServer(reward).score(prompts, [red, red, red[:4]])
    assert isinstance(warm, Score)
    assert isinstance(cold, Score)
    assert [warm.value, cold.value] == pytest.approx([0.9, 0.1])
    assert warm.breakdown == {"red": pytest.approx(1.0), "blue": pytest.approx(0.2)}
    assert low == ScoreFailure(reason="the picture is 4 pixels high; 8 are needed")


@pytest.mark.usefixtures("saved_example")
def test_the_example_can_be_trained_with_on_two_cores() -> None:
    prompts, command = block("sh").split("unigrpo train ")
    subprocess.run(["sh", "-c", prompts], check=True, timeout=10)
    preset, *overrides = shlex.split(command.replace("\\\n", " "))
    config = load(ROOT / preset, overrides)
    assert isinstance(config, TrainConfig)
    prepare(config, evaluates=config.evaluation.every is not None)
    asked = sum(role.placement.num_cpus for role in (config.learner, config.reasoner, config.denoiser))
    assert isinstance(config.reward, PythonReward)
    assert asked + config.reward.placement.num_cpus <= 2


def test_the_entry_point_is_of_the_group_that_is_read_and_named_in_the_config() -> None:
    [(group, names)] = tomllib.loads(block("toml"))["project"]["entry-points"].items()
    reward = reward_of(block("yaml"))
    assert isinstance(reward, PythonReward)
    assert group == python.ENTRY_POINTS
    assert names == {reward.verifier: yaml.safe_load(dict(LINES)["python"])["reward"]["verifier"]}
    assert importlib.metadata.EntryPoint(str(reward.verifier), names[reward.verifier], group).attr == "Warmth"
