"""The clipped surrogate: PPO's own definition, its gradient on policy, and clips far below float32's resolution at 1."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from unigrpo.algo.surrogate import clipped, clipped_surrogate, k3_kl, token_mean

# Shapes: S samples, T tokens.


def as_published(log_ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def grid() -> tuple[Tensor, Tensor]:
    log_ratio = torch.linspace(-1.5, 1.5, 301, dtype=torch.float64)[:, None]
    return log_ratio, torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], dtype=torch.float64)


def test_value_is_the_published_minimum() -> None:
    log_ratio, advantage = grid()
    expected = as_published(log_ratio, advantage, 0.2, 0.28)
    torch.testing.assert_close(clipped_surrogate(log_ratio, advantage, low=0.2, high=0.28), expected)


def test_gradient_is_that_of_the_published_minimum() -> None:
    log_ratio, advantage = grid()
    log_ratio = log_ratio.repeat(1, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(clipped_surrogate(log_ratio, advantage, low=0.2, high=0.28).sum(), log_ratio)
    above = as_published(log_ratio.detach() + 1e-6, advantage, 0.2, 0.28)
    below = as_published(log_ratio.detach() - 1e-6, advantage, 0.2, 0.28)
    torch.testing.assert_close(gradient, (above - below) / 2e-6, rtol=1e-6, atol=1e-8)


def test_values_worked_out_by_hand() -> None:
    log_ratio = torch.tensor([0.5, 1.5, 0.5, 1.5], dtype=torch.float64).log()
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    value = clipped_surrogate(log_ratio, advantage, low=0.2, high=0.28)
    torch.testing.assert_close(value, torch.tensor([0.5, 1.28, -0.8, -1.5], dtype=torch.float64))
    low, high = clipped(log_ratio, advantage, low=0.2, high=0.28)
    assert low.tolist() == [False, False, True, False]
    assert high.tolist() == [False, True, False, False]


def test_clip_binds_exactly_where_the_gradient_vanishes() -> None:
    log_ratio, advantage = grid()
    log_ratio, advantage = log_ratio.repeat(1, 4).requires_grad_(), advantage[advantage != 0]
    clipped_surrogate(log_ratio, advantage, low=0.2, high=0.28).sum().backward()
    assert log_ratio.grad is not None
    low, high = clipped(log_ratio.detach(), advantage, low=0.2, high=0.28)
    assert torch.equal(log_ratio.grad == 0, low | high)


def test_on_policy_gradient_is_reinforce() -> None:
    logp = torch.tensor([-0.3, -2.0, -5.0], requires_grad=True)
    advantage = torch.tensor([1.5, -0.7, 0.0])
    value = clipped_surrogate(logp - logp.detach(), advantage, low=0.2, high=0.28)
    torch.testing.assert_close(value, advantage, rtol=0, atol=0)
    (-value).sum().backward()
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, -advantage, rtol=0, atol=0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_clip_of_1e_6_tells_point_nine_from_one_point_one(sign: float) -> None:
    log_ratio = (sign * torch.tensor([0.9e-6, 1.1e-6], dtype=torch.float64)).requires_grad_()
    value = clipped_surrogate(log_ratio, torch.tensor([sign, sign], dtype=torch.float64), low=1e-6, high=1e-6)
    value.sum().backward()
    assert log_ratio.grad is not None
    torch.testing.assert_close(log_ratio.grad, torch.tensor([sign, 0.0], dtype=torch.float64), rtol=1e-5, atol=0)
    excess = (value.detach() * sign - 1).tolist()
    assert excess == pytest.approx([sign * 0.9e-6, sign * 1e-6], rel=1e-6)


def test_a_ratio_that_overflows_on_the_clipped_side_is_harmless() -> None:
    log_ratio = torch.tensor([1000.0, -1000.0], requires_grad=True)
    value = clipped_surrogate(log_ratio, torch.tensor([1.0, -1.0]), low=0.2, high=0.28)
    value.sum().backward()
    assert value.tolist() == pytest.approx([1.28, -0.8])
    assert log_ratio.grad is not None
    assert log_ratio.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.2), (1.0, 0.2), (0.2, 0.0), (-0.1, 0.2)])
def test_impossible_clips_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=f"got low={low}, high={high}"):
        clipped_surrogate(torch.zeros(1), torch.ones(1), low=low, high=high)


def test_k3_is_an_unbiased_estimate_of_the_kl() -> None:
    policy = Categorical(logits=torch.tensor([0.3, -1.0, 2.0, 0.5], dtype=torch.float64))
    reference = Categorical(logits=torch.tensor([0.1, 0.4, 1.0, -0.5], dtype=torch.float64))
    estimate = (policy.probs * k3_kl(policy.logits, reference.logits)).sum()
    torch.testing.assert_close(estimate, kl_divergence(policy, reference))


def test_k3_descends_the_kl_from_the_reference_not_the_one_it_estimates() -> None:
    """Samples carry no gradient: E_pi[grad k3] = E_pi[(1 - ref/pi) grad log pi] = -E_ref[grad log pi] = grad KL(ref || pi)."""
    logits = torch.tensor([0.3, -1.0, 2.0, 0.5], dtype=torch.float64, requires_grad=True)
    policy, reference = Categorical(logits=logits), Categorical(logits=torch.tensor([0.1, 0.4, 1.0, -0.5], dtype=torch.float64))
    expected_loss = (policy.probs.detach() * k3_kl(policy.logits, reference.logits)).sum()
    (gradient,) = torch.autograd.grad(expected_loss, logits, retain_graph=True)
    (forward,) = torch.autograd.grad(kl_divergence(reference, policy), logits, retain_graph=True)
    (reverse,) = torch.autograd.grad(kl_divergence(policy, reference), logits)
    torch.testing.assert_close(gradient, forward)
    torch.testing.assert_close(gradient, (policy.probs - reference.probs).detach())
    assert float((gradient - reverse).norm() / gradient.norm()) > 0.5


def test_k3_is_never_negative_and_zero_with_zero_gradient_at_the_reference() -> None:
    logp = torch.linspace(-8, 0, 33, dtype=torch.float64, requires_grad=True)
    k3_kl(logp, logp.detach()).sum().backward()
    assert logp.grad is not None
    assert logp.grad.eq(0).all()
    assert (k3_kl(logp.detach(), torch.full_like(logp, -3)) >= 0).all()
    assert float(k3_kl(torch.tensor(-1.0), torch.tensor(-2.0))) == pytest.approx(math.exp(-1) - 1 + 1)


def test_token_mean_by_hand() -> None:
    term_ST = torch.tensor([[1.0, 2.0, 6.0], [4.0, 99.0, 99.0], [99.0, 99.0, 99.0]])
    mask_ST = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    assert token_mean(term_ST, mask_ST).tolist() == [3.0, 4.0, 0.0]
