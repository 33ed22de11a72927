"""Which rewards of a group become its advantages."""

from dataclasses import replace

import pytest
import torch

from cluster.advantages import advantages_of, num_without_variance
from cluster.rollouts import Group
from configs.reward import CombinedReward
from configs.verifiers import OcrReward, RandomReward
from tests.cluster.fakes import fake_group
from unigrpo.types import Score

PARTS = {"text": OcrReward(), "noise": RandomReward()}


def group(text: list[float], noise: list[float]) -> Group:
    scores = tuple(Score(value=a + 100 * b, breakdown={"text": a, "noise": b}) for a, b in zip(text, noise, strict=True))
    return replace(fake_group(0, "counting", text), scores=scores)


def test_scores_are_normalised_as_they_were_added() -> None:
    reward = CombinedReward(parts=PARTS, weights={"text": 1.0, "noise": 100.0})
    thought_PM, advantages_PG = advantages_of([group([0.0, 1.0, 0.0], [0.0, 0.0, 1.0])], reward)
    torch.testing.assert_close(thought_PM, advantages_PG, rtol=0, atol=0)
    values = torch.tensor([0.0, 1.0, 100.0], dtype=torch.float64)
    torch.testing.assert_close(advantages_PG, ((values - values.mean()) / values.std(correction=0))[None], rtol=1e-5, atol=0)


def test_advantages_are_normalised_part_by_part_and_then_over_the_batch() -> None:
    """Both parts have one sibling of three above the others: each normalises to (-1, 2, -1) / sqrt 2 whatever its size."""
    reward = CombinedReward(parts=PARTS, weights={"text": 2.0, "noise": 1.0}, combine="advantages")
    thought_PM, advantages_PG = advantages_of([group([0.0, 1.0, 0.0], [0.0, 0.0, 1000.0])], reward)
    torch.testing.assert_close(thought_PM, advantages_PG, rtol=0, atol=0)
    expected_PG = torch.tensor([[-3.0, 3.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(advantages_PG, expected_PG / 6**0.5, rtol=0, atol=1e-5)


@pytest.mark.parametrize("combine", ["scores", "advantages"])
def test_thoughts_are_compared_by_their_means_and_paintings_within_their_thought(combine: str) -> None:
    """Of two parts one is constant: both roads lead to the nested advantages of the other. Means 3/4 and 1/4."""
    reward = CombinedReward.model_validate(
        {"kind": "combined", "parts": PARTS, "weights": {"text": 1, "noise": 0.01}, "combine": combine}
    )
    both = group([1.0, 0.5, 0.25, 0.25], [7.0] * 4)
    nested = replace(both, thoughts=both.thoughts[:2])
    thought_PM, image_PG = advantages_of([nested], reward)
    torch.testing.assert_close(thought_PM, torch.tensor([[1.0, -1.0]]).double(), rtol=0, atol=1e-5)
    image = torch.tensor([[1.0, -1.0, 0.0, 0.0]]).double() * 2**0.5  # the quadratic mean of 1/4, 1/4, 0, 0 is 1/4 / sqrt 2
    torch.testing.assert_close(image_PG, image, rtol=0, atol=2e-5)


def test_without_thoughts_paintings_are_compared_with_all_of_their_prompt() -> None:
    plain = fake_group(0, "counting", [1.0, 0.0], num_thoughts=0)
    _, image_PG = advantages_of([plain], RandomReward())
    torch.testing.assert_close(image_PG, torch.tensor([[1.0, -1.0]]).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("combine", "expected"), [("scores", 2), ("advantages", 1)])
def test_a_group_teaches_nothing_when_all_that_counts_for_itself_is_equal(combine: str, expected: int) -> None:
    reward = CombinedReward.model_validate(
        {"kind": "combined", "parts": PARTS, "weights": {"text": 1, "noise": 100}, "combine": combine}
    )
    groups = [group([0.5, 0.5], [1.0, 1.0]), group([1.0, 101.0], [1.0, 0.0]), group([0.0, 1.0], [0.0, 0.0])]
    assert num_without_variance(groups, reward) == expected
