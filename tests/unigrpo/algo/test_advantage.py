"""Group advantages: by hand, and the groups from which nothing is to be learned."""

import math

import pytest
import torch

from unigrpo.algo.advantage import group_advantages, zero_variance

# Shapes: P prompts, G siblings of one prompt.


def test_values_worked_out_by_hand() -> None:
    # mean 2.5, population variance (2.25 + .25 + .25 + 2.25) / 4 = 1.25; and mean .25, variance 3/16.
    rewards_PG = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 0.0]])
    a, b = 1 / math.sqrt(1.25), 1 / math.sqrt(3 / 16)
    expected_PG = torch.tensor([[-1.5 * a, -0.5 * a, 0.5 * a, 1.5 * a], [-0.25 * b, -0.25 * b, 0.75 * b, -0.25 * b]])
    torch.testing.assert_close(group_advantages(rewards_PG), expected_PG.double(), rtol=1e-5, atol=0)


def test_each_group_is_centred_and_scaled_by_itself() -> None:
    rewards_PG = torch.rand(5, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    advantages_PG = group_advantages(rewards_PG * torch.tensor([[1.0], [10.0], [0.1], [5.0], [1.0]]) + 3)
    torch.testing.assert_close(advantages_PG.mean(1), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(advantages_PG.square().mean(1), torch.ones(5, dtype=torch.float64), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reward", [1 / 3, 0.7, 1e-8, -7.7])
def test_equal_rewards_give_exactly_zero(dtype: torch.dtype, reward: float) -> None:
    rewards_PG = torch.full((2, 24), reward, dtype=dtype)
    assert zero_variance(rewards_PG).tolist() == [True, True]
    assert group_advantages(rewards_PG).eq(0).all()


def test_computed_deviation_of_equal_rewards_is_not_zero_which_is_why_it_is_not_asked() -> None:
    assert float(torch.full((24,), 0.7, dtype=torch.float64).std(correction=0)) > 0


def test_rewards_that_differ_by_rounding_stay_near_zero() -> None:
    rewards_PG = torch.tensor([[0.3, 0.1 + 0.2, 0.3, 0.1 + 0.2]], dtype=torch.float64)
    assert zero_variance(rewards_PG).tolist() == [False]
    assert group_advantages(rewards_PG).abs().max() < 1e-9


def test_only_the_groups_without_variance_are_counted() -> None:
    rewards_PG = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.5, 0.25]])
    assert zero_variance(rewards_PG).tolist() == [False, True, True, False]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rewards_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="group 1 holds a reward that is not finite"):
        group_advantages(torch.tensor([[0.0, 1.0], [bad, 1.0]]))
