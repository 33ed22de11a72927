"""FPO: its sums by hand and against a transcription, its invariants, and draws that belong to the picture."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from unigrpo.algo.advantage import group_advantages
from unigrpo.algo.fpo import cfm_loss, draws_for, elbo_log_ratio, fpo_loss
from unigrpo.algo.stats import Stats

# Shapes: S samples, K draws of one sample, L latent tokens, C channels, D = L*C.

S, K, L, C = 6, 3, 4, 5
SETTINGS: dict[str, Any] = {"clip": 0.05, "elbo_clamp": 3.0, "flow_weight": 0.7, "global_count": S}


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(off_policy: float = 0.03) -> dict[str, Tensor]:
    old_cfm_SK = random(S, K, seed=0).abs()
    return {
        "cfm_SK": old_cfm_SK + off_policy * random(S, K, seed=1),
        "old_cfm_SK": old_cfm_SK,
        "advantage_S": random(S, seed=2),
        "weight_S": torch.ones(S),
    }


def loss_of(values: dict[str, Tensor], **changes: Any) -> tuple[Tensor, Stats]:
    return fpo_loss(**values, **SETTINGS | changes)  # type: ignore[arg-type]


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    (value,) = torch.autograd.grad(loss, of)
    return value


def test_cfm_loss_by_hand() -> None:
    # Targets eps - x_0 are 1 - 3 = -2 and 0 - 1 = -1; errors 2 and 1, mean of squares 2.5.
    assert cfm_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 1.0]])).item() == 2.5


def test_cfm_loss_vanishes_for_the_velocity_that_leads_from_noise_to_picture() -> None:
    noise, latent = random(S, K, L, C, seed=3), random(S, 1, L, C, seed=4)
    assert cfm_loss(noise - latent, noise, latent).eq(0).all()
    velocity = random(S, K, L, C, seed=5).requires_grad_()
    loss_SK = cfm_loss(velocity, noise, latent)
    assert loss_SK.shape == (S, K)
    torch.testing.assert_close(
        gradient(loss_SK.sum(), velocity), 2 * (velocity.detach() - noise + latent.expand(S, K, L, C)) / (L * C)
    )


def test_the_log_ratio_is_the_mean_difference_of_losses_by_hand() -> None:
    # Old minus current: (1 - .5 + 2 - 1.9)/2 = .3; (0 - 9)/1 held at -3.
    assert elbo_log_ratio(torch.tensor([[0.5, 1.9]]), torch.tensor([[1.0, 2.0]]), clamp=3.0).item() == pytest.approx(0.3)
    assert elbo_log_ratio(torch.tensor([[9.0, 9.0]]), torch.zeros(1, 2), clamp=3.0).item() == -3.0


def test_beyond_the_clamp_there_is_no_gradient() -> None:
    cfm_SK = torch.tensor([[-4.0, -4.0], [4.0, 4.0], [1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    ratio_S = elbo_log_ratio(cfm_SK, torch.zeros(3, 2), clamp=3.0)
    assert gradient(ratio_S.sum(), cfm_SK).tolist() == [[0, 0], [0, 0], [-0.5, -0.5]]
    with pytest.raises(ValueError, match="give a positive one"):
        elbo_log_ratio(cfm_SK, torch.zeros(3, 2), clamp=0.0)


@pytest.mark.parametrize("off_policy", [0.03, 0.5, 8.0])
def test_the_loss_is_the_clipped_surrogate_written_out_picture_by_picture(off_policy: float) -> None:
    values, expected = batch(off_policy), 0.0
    for s in range(S):
        advantage = float(values["advantage_S"][s])
        differences = [float(values["old_cfm_SK"][s, k] - values["cfm_SK"][s, k]) for k in range(K)]
        ratio = math.exp(min(max(math.fsum(differences) / K, -3.0), 3.0))
        expected -= 0.7 * min(ratio * advantage, min(max(ratio, 0.95), 1.05) * advantage) / S
    assert loss_of(values)[0].item() == pytest.approx(expected, rel=1e-12)


def test_gradient_from_the_velocity_by_finite_differences_and_by_a_transcription() -> None:
    noise, latent = random(S, K, L, C, seed=6), random(S, 1, L, C, seed=7)
    old_velocity = random(S, K, L, C, seed=8)
    velocity = (old_velocity + 0.01 * random(S, K, L, C, seed=9)).requires_grad_()
    values = batch() | {"old_cfm_SK": cfm_loss(old_velocity, noise, latent)}

    def loss(v: Tensor) -> Tensor:
        return loss_of(values | {"cfm_SK": cfm_loss(v, noise, latent)})[0]

    assert torch.autograd.gradcheck(loss, velocity)
    errors = ((velocity - noise + latent) ** 2).flatten(2).mean(2)
    old_errors = ((old_velocity - noise + latent) ** 2).flatten(2).mean(2)
    ratio_S = (old_errors - errors).mean(1).exp()
    advantage_S = values["advantage_S"]
    surrogate_S = torch.minimum(ratio_S * advantage_S, ratio_S.clamp(0.95, 1.05) * advantage_S)
    torch.testing.assert_close(gradient(loss(velocity), velocity), gradient(-0.7 * surrogate_S.sum() / S, velocity))


def test_before_the_first_update_the_ratio_is_one_and_the_gradient_is_reinforce() -> None:
    values = batch(off_policy=0.0)
    cfm_SK = values["cfm_SK"].requires_grad_()
    loss, stats = loss_of(values)
    # d log r / d CFM = -1/K, so -A d log r = A/K.
    expected_SK = (0.7 * values["advantage_S"] / S / K)[:, None].expand(S, K)
    torch.testing.assert_close(gradient(loss, cfm_SK), expected_SK)
    assert loss.item() == pytest.approx(-0.7 * float(values["advantage_S"].mean()))
    told = stats.summary()
    assert told["log_ratio_max"] == told["clip_low"] == told["clip_high"] == told["elbo_clamped"] == 0
    assert told["cfm"] == pytest.approx(float(cfm_SK.detach().mean()))


@pytest.mark.parametrize("off_policy", [0.0, 0.5])
def test_equal_rewards_give_exactly_zero_gradient(off_policy: float) -> None:
    values = batch(off_policy) | {"advantage_S": group_advantages(torch.full((1, S), 1 / 3)).flatten()}
    cfm_SK = values["cfm_SK"].requires_grad_()
    assert gradient(loss_of(values)[0], cfm_SK).eq(0).all()


def test_clips_bind_where_they_should_and_are_counted() -> None:
    # Log-ratios .1, -.1 and 4 (held at 3): the upper clip binds for A > 0 alone, the lower for A < 0 alone.
    cfm_SK = torch.tensor([[-0.1], [0.1], [0.1], [-0.1], [-4.0]], dtype=torch.float64, requires_grad=True)
    loss, stats = fpo_loss(
        cfm_SK,
        torch.zeros(5, 1),
        torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0]),
        weight_S=torch.ones(5),
        **SETTINGS | {"global_count": 5, "flow_weight": 1.0},
    )
    assert [value != 0 for value in gradient(loss, cfm_SK).flatten().tolist()] == [False, False, True, True, False]
    assert (stats.summary()["clip_low"], stats.summary()["clip_high"]) == (0.2, 0.2)
    assert stats.summary()["elbo_clamped"] == 0.2


def test_nothing_old_receives_a_gradient() -> None:
    values = {name: value.requires_grad_() for name, value in batch().items()}
    loss_of(values)[0].backward()
    assert values["cfm_SK"].grad is not None
    assert values["old_cfm_SK"].grad is None
    noise, latent, velocity = (random(K, L, C, seed=seed).requires_grad_() for seed in (1, 2, 3))
    cfm_loss(velocity, noise, latent).sum().backward()
    assert velocity.grad is not None
    assert noise.grad is None is latent.grad


@pytest.mark.parametrize("cuts", [[[0, 1, 2], [3, 4, 5]], [[5, 0], [4, 1, 3, 2]], [[0], [1], [2], [3], [4], [5]]])
def test_accumulation_and_sharding_do_not_change_loss_gradient_or_statistics(cuts: list[list[int]]) -> None:
    values = batch()
    cfm_SK = values["cfm_SK"].requires_grad_()
    loss, stats = loss_of(values)
    parts = [loss_of({name: value[rows] for name, value in values.items()}) for rows in cuts]
    total = torch.stack([part for part, _ in parts]).sum()
    torch.testing.assert_close(total, loss)
    torch.testing.assert_close(gradient(total, cfm_SK), gradient(loss, cfm_SK))
    summed = parts[0][1]
    for _, part in parts[1:]:
        summed = summed + part
    assert summed.summary() == pytest.approx(stats.summary())


def test_dummies_count_for_nothing() -> None:
    values = batch()
    wider = {name: torch.cat([value, value[:2]]) for name, value in values.items()}
    wider["weight_S"] = torch.tensor([1.0] * S + [0.0] * 2)
    torch.testing.assert_close(loss_of(wider)[0], loss_of(values)[0])
    assert loss_of(wider)[1].summary() == pytest.approx(loss_of(values)[1].summary())


def test_draws_are_a_function_of_run_step_and_picture() -> None:
    latent_LC = random(L, C, seed=0).float()
    options: dict[str, Any] = {"seed": 3, "step": 7, "num_draws": K, "shift": 3.0}
    first = draws_for(latent_LC, **options)
    again = draws_for(latent_LC.clone(), **options)
    assert torch.equal(first.t_K, again.t_K)
    assert torch.equal(first.noise_KLC, again.noise_KLC)
    others = [draws_for(latent_LC + 1e-6, **options)]
    others += [draws_for(latent_LC, **options | change) for change in ({"seed": 4}, {"step": 8})]
    assert all(not torch.equal(first.noise_KLC, other.noise_KLC) for other in others)


def test_draws_are_uniform_times_shifted_as_the_grid_is_and_normal_noise() -> None:
    draws = draws_for(torch.zeros(2, 1), seed=0, step=0, num_draws=20_000, shift=3.0)
    even_K = draws.t_K / (3 - 2 * draws.t_K)  # the inverse of t' = 3 t / (1 + 2 t)
    assert draws.t_K.dtype == torch.float64
    for share in (0.1, 0.5, 0.9):
        assert float((even_K < share).double().mean()) == pytest.approx(share, abs=0.01)
    assert float(draws.noise_KLC.mean()) == pytest.approx(0, abs=0.02)
    assert float(draws.noise_KLC.std()) == pytest.approx(1, abs=0.02)


def test_the_noised_latent_lies_between_picture_and_noise() -> None:
    latent_LC = random(L, C, seed=0).float()
    draws = draws_for(latent_LC, seed=0, step=0, num_draws=K, shift=1.0)
    for k in range(K):
        t = float(draws.t_K[k])
        expected = torch.tensor(
            [(1 - t) * x + t * e for x, e in zip(latent_LC.flatten(), draws.noise_KLC[k].flatten(), strict=True)]
        )
        torch.testing.assert_close(draws.noised(latent_LC)[k].flatten(), expected)
