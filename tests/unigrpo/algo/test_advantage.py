"""Group advantages: by hand, and the groups from which nothing is to be learned."""

import math

import pytest
import torch
from torch import Tensor

from unigrpo.algo.advantage import (
    decoupled_advantages,
    decoupled_nested_advantages,
    group_advantages,
    nested_advantages,
    zero_variance,
)

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


def test_decoupled_advantages_by_hand() -> None:
    """Two groups of two: (r - mean) / std is +-1 for any spread, so the sum is 2 + 1 or 2 - 1, and its deviation sqrt(5)."""
    quality_PG, style_PG = torch.tensor([[0.0, 1.0], [0.0, 100.0]]), torch.tensor([[5.0, 6.0], [0.2, 0.1]])
    advantages_PG = decoupled_advantages(torch.stack([quality_PG, style_PG]), [2.0, 1.0])
    expected_PG = torch.tensor([[-3.0, 3.0], [-1.0, 1.0]], dtype=torch.float64) / 5**0.5
    torch.testing.assert_close(advantages_PG, expected_PG, atol=5e-5, rtol=0)


def test_a_reward_alone_is_scaled_over_the_batch() -> None:
    rewards_PG = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    whole = decoupled_advantages(rewards_PG[None], [3.0])
    alone = group_advantages(rewards_PG)
    torch.testing.assert_close(whole, alone / alone.std(correction=0), atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.mean(1), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_part_without_variance_teaches_nothing_and_neither_do_all() -> None:
    flat_PG, rewards_PG = torch.full((2, 3), 0.7), torch.tensor([[0.0, 1.0, 0.5], [1.0, 1.0, 0.0]])
    torch.testing.assert_close(
        decoupled_advantages(torch.stack([flat_PG, rewards_PG]), [9.0, 1.0]), decoupled_advantages(rewards_PG[None], [1.0])
    )
    assert not decoupled_advantages(torch.stack([flat_PG, flat_PG]), [1.0, 1.0]).any()


def test_decoupled_advantages_refuse_what_is_no_reward() -> None:
    with pytest.raises(ValueError, match="not finite"):
        decoupled_advantages(torch.tensor([[[0.0, 1.0]], [[0.0, torch.nan]]]), [1.0, 1.0])
    with pytest.raises(ValueError, match="2 weights for 1 rewards"):
        decoupled_advantages(torch.zeros(1, 2, 2), [1.0, 1.0])


# Shapes from here on: P prompts, M thoughts of one prompt, K paintings of one thought, R rewards.


def random_PMK(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_nested_credit_worked_out_by_hand() -> None:
    """Thoughts of means .5 and .1; deviations +-.5 and +-.1, whose root mean square is sqrt(.13)."""
    thought_PM, image_PMK = nested_advantages(torch.tensor([[[1.0, 0.0], [0.2, 0.0]]], dtype=torch.float64), eps=0.0)
    torch.testing.assert_close(thought_PM, torch.tensor([[1.0, -1.0]], dtype=torch.float64))
    scale = 0.13**0.5
    expected_PMK = torch.tensor([[[0.5 / scale, -0.5 / scale], [0.1 / scale, -0.1 / scale]]], dtype=torch.float64)
    torch.testing.assert_close(image_PMK, expected_PMK)


def test_each_branch_is_credited_for_what_it_caused() -> None:
    """A good plan badly painted once: flat groups would blame the plan and its other paintings' luck on one another."""
    good_plan, bad_plan = [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]
    thought_PM, image_PMK = nested_advantages(torch.tensor([[good_plan, bad_plan]]))
    assert thought_PM[0, 0] > 0.99
    assert thought_PM[0, 1] < -0.99
    assert (image_PMK[0, 0, :3] > 0).all()
    assert image_PMK[0, 0, 3] < 0 < image_PMK[0, 1, 3]
    torch.testing.assert_close(image_PMK[0, 0], -image_PMK[0, 1])


def test_what_a_thought_alone_decides_teaches_the_painter_nothing() -> None:
    thought_PM, image_PMK = nested_advantages(torch.tensor([[[0.7] * 3, [0.1] * 3, [0.4] * 3]]))
    assert image_PMK.eq(0).all()
    torch.testing.assert_close(thought_PM, group_advantages(torch.tensor([[0.7, 0.1, 0.4]])), atol=1e-5, rtol=0)


def test_what_the_painting_alone_decides_teaches_the_thinker_nothing() -> None:
    thought_PM, image_PMK = nested_advantages(torch.tensor([[[0.25, 0.75]] * 4]))
    assert thought_PM.eq(0).all()
    torch.testing.assert_close(image_PMK, torch.tensor([[[-1.0, 1.0]] * 4], dtype=torch.float64), atol=1e-5, rtol=0)


def test_paintings_of_a_thought_that_are_all_alike_get_zero_beside_others_that_are_not() -> None:
    _, image_PMK = nested_advantages(torch.tensor([[[0.7] * 3, [0.1, 0.2, 0.9]]], dtype=torch.float64))
    assert image_PMK[0, 0].eq(0).all()
    assert image_PMK[0, 1].abs().min() > 0.1


def test_nested_advantages_have_zero_means_and_one_scale_a_prompt() -> None:
    rewards_PMK = random_PMK(5, 6, 4) * torch.tensor([1.0, 10.0, 0.1, 5.0, 1.0], dtype=torch.float64)[:, None, None] + 3
    thought_PM, image_PMK = nested_advantages(rewards_PMK)
    ones_P, zeros_P = torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(thought_PM.mean(1), zeros_P, rtol=0, atol=1e-9)
    torch.testing.assert_close(thought_PM.square().mean(1), ones_P, rtol=1e-3, atol=0)
    torch.testing.assert_close(image_PMK.mean(2), zeros_P[:, None].expand(5, 6), rtol=0, atol=1e-9)
    torch.testing.assert_close(image_PMK.square().mean((1, 2)), ones_P, rtol=1e-3, atol=0)


@pytest.mark.parametrize("reward", [1 / 3, 0.7, -7.7])
@pytest.mark.parametrize("num_images", [1, 2, 7])
def test_equal_rewards_give_exactly_zero_to_thoughts_and_paintings(reward: float, num_images: int) -> None:
    thought_PM, image_PMK = nested_advantages(torch.full((2, 3, num_images), reward))
    assert thought_PM.eq(0).all()
    assert image_PMK.eq(0).all()
    assert image_PMK.shape == (2, 3, num_images)


def test_one_painting_a_thought_is_the_papers_group() -> None:
    rewards_PMK = random_PMK(3, 8, 1)
    thought_PM, image_PMK = nested_advantages(rewards_PMK)
    assert torch.equal(thought_PM, group_advantages(rewards_PMK[:, :, 0]))
    assert torch.equal(image_PMK[:, :, 0], thought_PM)


def test_nested_advantages_refuse_what_is_no_reward() -> None:
    with pytest.raises(ValueError, match="group 1 holds a reward that is not finite"):
        nested_advantages(torch.tensor([[[0.0, 1.0]], [[math.nan, 1.0]]]))


def test_decoupled_nested_advantages_sum_the_parts_and_scale_each_branch_over_the_batch() -> None:
    rewards_RPMK, weights_R = random_PMK(2, 3, 4, 2) * torch.tensor([1.0, 50.0])[:, None, None, None], [2.0, 0.5]
    parts_R = [nested_advantages(rewards_PMK) for rewards_PMK in rewards_RPMK]
    for branch, got in enumerate(decoupled_nested_advantages(rewards_RPMK, weights_R)):
        total = 2.0 * parts_R[0][branch] + 0.5 * parts_R[1][branch]
        torch.testing.assert_close(got, total / total.square().mean().sqrt(), rtol=1e-5, atol=1e-5)


def test_decoupled_nested_advantages_of_one_painting_are_the_flat_ones() -> None:
    rewards_RPMK = random_PMK(2, 3, 4, 1)
    thought_PM, image_PMK = decoupled_nested_advantages(rewards_RPMK, [1.0, 3.0])
    assert torch.equal(thought_PM, decoupled_advantages(rewards_RPMK[..., 0], [1.0, 3.0]))
    assert torch.equal(image_PMK[:, :, 0], thought_PM)
    with pytest.raises(ValueError, match="1 weights for 2 rewards"):
        decoupled_nested_advantages(rewards_RPMK, [1.0])
