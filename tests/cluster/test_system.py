"""What a running system starts, and what it writes down of evaluations whose scores failed."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster import system
from cluster.metrics import Metrics, read_rows
from cluster.rollouts import Group
from cluster.run import scores_of
from cluster.system import System, rewards_of, rollouts_of
from configs.load import QUICKSTART, load, model_folder
from configs.schema import TrainConfig
from tests.cluster.fakes import fake_group
from unigrpo.tokenizer import load_tokenizer


def quickstart(*overrides: str) -> TrainConfig:
    config = load(QUICKSTART, overrides)
    assert isinstance(config, TrainConfig)
    return config


def test_judges_of_evaluations_start_only_where_there_are_evaluations() -> None:
    own, alone = "evaluation.reward={kind: random}", "panel=null"
    assert list(rewards_of(quickstart(alone, own))) == ["reward", "evaluation.reward"]
    assert list(rewards_of(quickstart(alone, own, "evaluation.every=null"))) == ["reward"]
    assert list(rewards_of(quickstart(alone, "evaluation.reward=null"))) == ["reward"]


def test_a_prompt_that_changed_since_preflight_is_refused_like_any_other() -> None:
    tokenizer = load_tokenizer(model_folder(Path("bundled:shapes")))
    workers: dict[str, list[Any]] = {"reasoner": [], "denoiser": []}
    rollouts = rollouts_of(quickstart(), workers, {}, tokenizer, cast(Any, FakeView()))
    assert rollouts._encode("a circle") == tokenizer.encode("a circle")
    with pytest.raises(ValueError, match="must not stand in a text"):
        rollouts._encode("a circle <|im_end|>")


class FakeView:
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def stage(self, name: str) -> None:
        pass

    stages = None


@pytest.mark.parametrize("groups", [[], [fake_group(0, "counting", [1.0])]])
def test_an_evaluation_whose_scores_failed_is_said_and_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: Sequence[Group]
) -> None:
    view, metrics, shown = FakeView(), Metrics(tmp_path), list[Any]()
    metrics.resume(0)
    unscored = {"unscored": 3, "groups/asked": 4, "groups/dropped": 3, "versions": {"random": "1"}}
    monkeypatch.setattr(system, "benchmark", lambda config, tokenizer: SimpleNamespace(prompts=[None] * 4))
    monkeypatch.setattr(system, "evaluate", lambda rollouts, benchmark: (unscored, list(groups)))
    monkeypatch.setattr(system, "write_samples", lambda folder, groups, **_: shown.append(groups))
    nothing = cast(Any, None)
    running = System(
        config=quickstart(f"run_dir={tmp_path}"),
        learner=nothing,
        rollouts=nothing,
        prompts=nothing,
        metrics=metrics,
        view=cast(Any, view),
        tokenizer=cast(Any, FakeTokenizer),
    )
    running.evaluate(0)
    assert view.said == ["evaluation of step 0: no means, 3 of 4 prompts could not be judged"]
    assert scores_of(read_rows(tmp_path / "metrics.jsonl"), 0) == unscored
    assert shown == [groups] * bool(groups)


class FakeTokenizer:
    decode = str
