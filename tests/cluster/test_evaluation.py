"""What an evaluation asks of the rollouts, and which prompts count as seen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.evaluation import Benchmark, evaluate, seen_by
from cluster.judging import Tally
from cluster.rollouts import Group, Rollouts, Sampling
from cluster.summary import scoring
from configs.load import QUICKSTART, load
from configs.schema import TrainConfig
from configs.verifiers import GenevalReward
from tests.cluster.fakes import fake_group
from unigrpo.prompts import write_prompt_file
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.types import Prompt

GROUPS = [
    fake_group(0, "colors", [1.0, 1.0]),
    fake_group(1, "counting", [1.0, 0.0]),
    fake_group(2, "position", [0.0, 0.0]),
    fake_group(3, "counting", [1.0, 1.0]),
]
SAMPLING = Sampling(seed=0, step=0, group_size=2, temperature=1.0, num_points=3, prompts_per_piece=1, judge="evaluation")
SCORING = scoring(GenevalReward(detector="shapes"))


def is_seen(prompt: Prompt) -> bool:
    return prompt.metadata["tag"] == "colors"


class FakeRollouts:
    """Returns groups made by hand and remembers what was asked."""

    def __init__(self, dropped: int = 0) -> None:
        self.tally = Tally(groups=4, dropped=dropped)
        self.asked: list[Sampling] = []

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Group]:
        self.asked.append(sampling)
        return GROUPS if sampling.plan is None else [fake_group(1, "counting", [1.0, 1.0])]


def benchmark(plan: Any) -> Benchmark:
    return Benchmark(prompts=[group.prompt for group in GROUPS], sampling=SAMPLING, is_seen=is_seen, scoring=SCORING, plan=plan)


def test_given_plans_are_scored_beside_own_thoughts_from_the_same_seeds() -> None:
    rollouts = FakeRollouts()
    scores, own = evaluate(cast(Rollouts, rollouts), benchmark(lambda prompt, sibling: (1, 2)))
    assert scores["ground_truth_plan"] == 1.0
    assert scores["strict"] == pytest.approx(3 / 6)
    assert own == GROUPS
    assert [asked.plan is None for asked in rollouts.asked] == [True, False]
    assert rollouts.asked[0].seed == rollouts.asked[1].seed


def test_without_plans_only_own_thoughts_are_scored() -> None:
    scores, _ = evaluate(cast(Rollouts, FakeRollouts()), benchmark(None))
    assert "ground_truth_plan" not in scores


def test_a_score_that_failed_ends_the_evaluation() -> None:
    with pytest.raises(RuntimeError, match=r"1 of 4 prompts could not be judged"):
        evaluate(cast(Rollouts, FakeRollouts(dropped=1)), benchmark(None))


def quickstart(*overrides: str) -> TrainConfig:
    config = load(QUICKSTART, overrides)
    assert isinstance(config, TrainConfig)
    return config


def seen(config: TrainConfig) -> set[str]:
    was_seen = seen_by(config)
    return {prompt.text for split in ("train", "held_out") for prompt in shapes_prompts(split) if was_seen(prompt)}


def test_seen_is_what_the_run_trains_on_and_on_the_shapes_world_what_fine_tuning_saw(tmp_path: Path) -> None:
    fine_tuned = {prompt.text for prompt in shapes_prompts("train")}
    assert seen(quickstart()) == fine_tuned
    file = tmp_path / "prompts.jsonl"
    write_prompt_file(file, shapes_prompts("held_out")[-2:])
    own = {prompt.text for prompt in shapes_prompts("held_out")[-2:]}
    trained_on_file = [f"prompts={{kind: file, path: {file}}}", "reward={kind: geneval}"]
    assert seen(quickstart(*trained_on_file)) == fine_tuned | own
    assert seen(quickstart(*trained_on_file, "evaluation.prompts={kind: exam}")) == own
    assert seen(quickstart("prompts={kind: file}", "evaluation.prompts={kind: exam}")) == set()
