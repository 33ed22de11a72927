"""Headline scores are means over pictures of unseen prompts; seen categories are shown and marked."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from cluster.evaluation import Benchmark, evaluate, summarise
from cluster.rollouts import Group, Rollouts, Sampling, Tally
from tests.cluster.fakes import fake_group
from unigrpo.types import Prompt

GROUPS = [
    fake_group(0, "colors", [1.0, 1.0]),
    fake_group(1, "counting", [1.0, 0.0]),
    fake_group(2, "position", [0.0, 0.0]),
    fake_group(3, "counting", [1.0, 1.0]),
]
SAMPLING = Sampling(seed=0, step=0, group_size=2, temperature=1.0, num_points=3, prompts_per_piece=1, judge="evaluation")


def is_seen(prompt: Prompt) -> bool:
    return prompt.metadata["tag"] == "colors"


class FakeRollouts:
    """Returns groups made by hand and remembers what was asked."""

    def __init__(self, dropped: int = 0) -> None:
        self.tally = Tally(asked=4, dropped=dropped)
        self.asked: list[Sampling] = []

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Group]:
        self.asked.append(sampling)
        return GROUPS if sampling.plan is None else [fake_group(1, "counting", [1.0, 1.0])]


def test_headline_means_leave_seen_prompts_out() -> None:
    scores = summarise(GROUPS, is_seen)
    assert scores["strict"] == pytest.approx(3 / 6)
    assert scores["graded"] == pytest.approx(1.5 / 6)
    assert scores["geneval"] == pytest.approx(9 / 6)
    assert (scores["prompts"], scores["pictures"]) == (3, 6)


def test_categories_are_told_apart_and_marked() -> None:
    categories = summarise(GROUPS, is_seen)["by_category"]
    assert list(categories) == ["colors", "counting", "position"]
    assert categories["counting"] == {
        "strict": 0.75, "graded": 0.375, "geneval": 1.75, "prompts": 2, "pictures": 4, "seen": False
    }  # fmt: skip
    assert categories["colors"]["seen"]


def benchmark(plan: Any) -> Benchmark:
    return Benchmark(prompts=[group.prompt for group in GROUPS], sampling=SAMPLING, is_seen=is_seen, plan=plan)


def test_given_plans_are_scored_beside_own_thoughts_from_the_same_seeds() -> None:
    rollouts = FakeRollouts()
    scores, own = evaluate(cast(Rollouts, rollouts), benchmark(lambda prompt, sibling: (1, 2)))
    assert scores["ground_truth_plan"] == 1.0
    assert own == GROUPS
    assert [asked.plan is None for asked in rollouts.asked] == [True, False]
    assert rollouts.asked[0].seed == rollouts.asked[1].seed


def test_without_plans_only_own_thoughts_are_scored() -> None:
    scores, _ = evaluate(cast(Rollouts, FakeRollouts()), benchmark(None))
    assert "ground_truth_plan" not in scores


def test_a_score_that_failed_ends_the_evaluation() -> None:
    with pytest.raises(RuntimeError, match=r"1 of 4 prompts could not be judged"):
        evaluate(cast(Rollouts, FakeRollouts(dropped=1)), benchmark(None))


def test_where_every_prompt_was_seen_the_means_are_over_all_and_say_so() -> None:
    scores = summarise(GROUPS, lambda prompt: True)
    assert scores["seen"]
    assert scores["strict"] == pytest.approx(5 / 8)
    assert not summarise(GROUPS, is_seen)["seen"]
