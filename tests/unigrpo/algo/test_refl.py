"""ReFL: the predicted picture and the loss of its score, by hand and by finite differences."""

import pytest
import torch
from torch import Tensor

from unigrpo.algo.flow import ode_step
from unigrpo.algo.refl import predicted_clean, refl_loss

# Shapes: S samples, L latent tokens, C channels.

S, L, C = 5, 4, 3


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("t", [0.0, 0.125, 0.7, 1.0])
def test_the_true_velocity_leads_back_to_the_picture_from_anywhere(t: float) -> None:
    clean, noise = random(S, L, C, seed=0), random(S, L, C, seed=1)
    torch.testing.assert_close(predicted_clean((1 - t) * clean + t * noise, noise - clean, t), clean)


def test_it_is_the_deterministic_step_all_the_way_down() -> None:
    x, v = random(S, L, C, seed=0).float(), random(S, L, C, seed=1).float()
    assert torch.equal(predicted_clean(x, v, 0.3), ode_step(x, v, 0.3, 0.0))
    t_S11 = torch.linspace(0.1, 0.5, S, dtype=torch.float64)[:, None, None]
    assert torch.equal(predicted_clean(x, v, t_S11), ode_step(x, v, t_S11, torch.zeros(S, 1, 1)))


def test_its_gradient_is_minus_t() -> None:
    x, v = random(S, L, C, seed=0), random(S, L, C, seed=1).requires_grad_()
    (of_v,) = torch.autograd.grad(predicted_clean(x, v, 0.3).sum(), v)
    torch.testing.assert_close(of_v, torch.full_like(v, -0.3))


def test_the_loss_is_the_negated_mean_score_and_tells_the_scores() -> None:
    loss, stats = refl_loss(torch.tensor([0.2, 0.6]), weight_S=torch.ones(2), global_count=2)
    assert loss.item() == pytest.approx(-0.4)
    assert stats.summary() == pytest.approx({"score_mean": 0.4, "score_std": 0.2, "score_max": 0.6})


def test_gradient_by_finite_differences_and_by_a_transcription() -> None:
    """A score that bends, of a picture that a bent decoder makes of the predicted latent."""
    x, v, goal = random(S, L, C, seed=0), random(S, L, C, seed=1).requires_grad_(), random(S, L, C, seed=2)

    def score(v: Tensor) -> Tensor:
        return (-(predicted_clean(x, v, 0.4).tanh() - goal).square().mean((1, 2))).exp()

    def loss(v: Tensor) -> Tensor:
        return refl_loss(score(v), weight_S=torch.ones(S), global_count=S)[0]

    assert torch.autograd.gradcheck(loss, v)
    written_out = -torch.stack([score(v)[s] for s in range(S)]).mean()
    torch.testing.assert_close(torch.autograd.grad(loss(v), v), torch.autograd.grad(written_out, v))


@pytest.mark.parametrize("cuts", [[[0, 1], [2, 3, 4]], [[4, 0], [3], [1, 2]]])
def test_sharding_changes_neither_loss_nor_statistics(cuts: list[list[int]]) -> None:
    score_S = random(S, seed=0).sigmoid()
    loss, stats = refl_loss(score_S, weight_S=torch.ones(S), global_count=S)
    parts = [refl_loss(score_S[rows], weight_S=torch.ones(len(rows)), global_count=S) for rows in cuts]
    torch.testing.assert_close(torch.stack([part for part, _ in parts]).sum(), loss)
    summed = parts[0][1]
    for _, part in parts[1:]:
        summed = summed + part
    assert summed.summary() == pytest.approx(stats.summary())


def test_dummies_count_for_nothing() -> None:
    score_S = random(S, seed=0).sigmoid().requires_grad_()
    weight_S = torch.tensor([1.0] * 3 + [0.0] * 2)
    loss, stats = refl_loss(score_S, weight_S=weight_S, global_count=3)
    assert loss.item() == pytest.approx(-float(score_S.detach()[:3].mean()))
    (of_score,) = torch.autograd.grad(loss, score_S)
    assert of_score.tolist() == pytest.approx([-1 / 3] * 3 + [0, 0])
    assert stats.summary()["score_mean"] == pytest.approx(float(score_S.detach()[:3].mean()))
