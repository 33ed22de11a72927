"""GRPO on painting steps, against equations 6 and 8 by torch.distributions; the method's invariants; what never changes it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from unigrpo.algo.advantage import group_advantages
from unigrpo.algo.flow import latent_kl_weight, noise_scale, sde_step, time_grid
from unigrpo.algo.flow_grpo import FlowLoss, flow_loss, velocity_mse

# Shapes: S samples, W window steps, L latent tokens, C channels, D = L*C.

S, W, L, C = 6, 3, 4, 5
STD_W = torch.tensor([0.8, 0.5, 0.3], dtype=torch.float64)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flow_batch(off_policy: float = 1e-3) -> dict[str, Tensor]:
    old_mean_SWLC = random(S, W, L, C, seed=10)
    velocity_SWLC = random(S, W, L, C, seed=13)
    return {
        "mean_SWLC": old_mean_SWLC + off_policy * random(S, W, L, C, seed=11),
        "old_mean_SWLC": old_mean_SWLC,
        "x_next_SWLC": old_mean_SWLC + STD_W[:, None, None] * random(S, W, L, C, seed=12),
        "advantage_S": random(S, seed=2),
        "weight_S": torch.ones(S),
        "velocity_SWLC": velocity_SWLC,
        "reference_velocity_SWLC": velocity_SWLC + 0.1 * random(S, W, L, C, seed=14),
    }


def flow(batch: dict[str, Tensor], **options: Any) -> FlowLoss:
    defaults = {"clip": 1e-4, "ratio_norm": True, "flow_weight": 0.7, "global_count": S, "mse_weight": 0.3, "std": STD_W}
    return flow_loss(**batch, **defaults | options)  # type: ignore[arg-type]


def part(batch: dict[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in batch.items()}


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    (value,) = torch.autograd.grad(loss, of)
    return value


@pytest.mark.parametrize("ratio_norm", [True, False])
def test_flow_loss_is_equation_6_with_densities_by_torch_distributions(ratio_norm: bool) -> None:
    batch = flow_batch(off_policy=1e-2)
    policy, mse = 0.0, 0.0
    for s in range(S):
        advantage = float(batch["advantage_S"][s])
        for w in range(W):
            mean, old_mean, x_next = (batch[name][s, w] for name in ("mean_SWLC", "old_mean_SWLC", "x_next_SWLC"))
            std = STD_W[w]
            log_r = float((Normal(mean, std).log_prob(x_next) - Normal(old_mean, std).log_prob(x_next)).sum())
            if ratio_norm:
                log_r = float(std) * (log_r + float((mean - old_mean).square().sum() / (2 * std**2)))
            ratio = math.exp(log_r / (L * C))
            policy -= 0.7 * min(ratio * advantage, min(max(ratio, 1 - 1e-4), 1 + 1e-4) * advantage) / W / S
            mse += 0.3 * float((batch["velocity_SWLC"][s, w] - batch["reference_velocity_SWLC"][s, w]).square().mean()) / W / S
    loss = flow(batch, ratio_norm=ratio_norm)
    assert loss.policy.item() == pytest.approx(policy, rel=1e-12)
    assert loss.regulariser.item() == pytest.approx(mse, rel=1e-12)
    assert loss.total.item() == pytest.approx(policy + mse, rel=1e-12)


def test_gradients_by_finite_differences() -> None:
    batch = flow_batch()
    mean, velocity = (value.requires_grad_() for value in (batch["mean_SWLC"], batch["velocity_SWLC"]))
    assert torch.autograd.gradcheck(lambda m, v: flow(batch | {"mean_SWLC": m, "velocity_SWLC": v}).total, (mean, velocity))


def test_paintings_with_steps_of_their_own_are_each_as_they_would_be_alone() -> None:
    batch = flow_batch(off_policy=1e-2)
    std_SW = 0.2 + random(S, W, seed=40).abs()
    weight_SW = random(S, W, seed=41).abs()
    mean_SWLC = batch["mean_SWLC"].requires_grad_()
    together = flow(batch, std=std_SW, mse_weight=weight_SW)
    alone = [flow(part(batch, [s]), std=std_SW[s], mse_weight=weight_SW[s]).total for s in range(S)]
    torch.testing.assert_close(together.total, torch.stack(alone).sum())
    torch.testing.assert_close(gradient(together.total, mean_SWLC), gradient(torch.stack(alone).sum(), mean_SWLC))


def test_before_the_first_update_the_gradient_is_advantage_times_noise() -> None:
    batch = flow_batch(off_policy=0.0)
    mean_SWLC = batch["mean_SWLC"].requires_grad_()
    loss = flow(batch)
    xi_SWLC = (batch["x_next_SWLC"] - batch["old_mean_SWLC"]) / STD_W[:, None, None]
    expected_SWLC = -0.7 * batch["advantage_S"][:, None, None, None] * xi_SWLC / (L * C) / W / S
    torch.testing.assert_close(gradient(loss.policy, mean_SWLC), expected_SWLC)
    assert loss.policy.item() == pytest.approx(-0.7 * float(batch["advantage_S"].mean()))
    assert loss.stats.summary()["log_ratio_max"] == 0
    assert loss.stats.summary()["clip_low"] == loss.stats.summary()["clip_high"] == 0


def test_through_the_step_the_velocity_gradient_carries_the_papers_coefficient() -> None:
    # d mean / d v = -1.32 h after t = 1, -h at t = 1.
    grid_N = time_grid(25, 3.0)
    t_W11, t_next_W11 = grid_N[:W, None, None], grid_N[1 : W + 1, None, None]
    x_SWLC, velocity_SWLC = random(S, W, L, C, seed=20), random(S, W, L, C, seed=21).requires_grad_()
    step = sde_step(x_SWLC, velocity_SWLC, t_W11, t_next_W11, noise_level=0.8)
    xi_SWLC, advantage_S = random(S, W, L, C, seed=22), random(S, seed=2)
    x_next_SWLC = (step.mean + step.std * xi_SWLC).detach()
    options: dict[str, Any] = {"clip": 1e-6, "ratio_norm": True, "flow_weight": 1.0, "global_count": S}
    loss = flow_loss(
        step.mean, step.mean.detach(), x_next_SWLC, step.std.flatten(), advantage_S, weight_S=torch.ones(S), **options
    )
    coefficient_W11 = torch.tensor([1.0, 1.32, 1.32], dtype=torch.float64)[:, None, None] * (t_W11 - t_next_W11)
    expected_SWLC = advantage_S[:, None, None, None] * coefficient_W11 * xi_SWLC / (L * C * W * S)
    torch.testing.assert_close(gradient(loss.total, velocity_SWLC), expected_SWLC)


@pytest.mark.parametrize("off_policy", [0.0, 0.3])
def test_equal_rewards_give_exactly_zero_gradient(off_policy: float) -> None:
    batch = flow_batch(off_policy) | {"advantage_S": group_advantages(torch.full((1, S), 1 / 3)).flatten()}
    mean_SWLC = batch["mean_SWLC"].requires_grad_()
    assert gradient(flow(batch).policy, mean_SWLC).eq(0).all()


def test_mse_vanishes_with_its_gradient_at_the_reference_and_never_reaches_it() -> None:
    velocity = random(S, W, L, C, seed=1).requires_grad_()
    reference = velocity.detach().clone().requires_grad_()
    loss = flow(flow_batch() | {"velocity_SWLC": velocity, "reference_velocity_SWLC": reference})
    assert loss.regulariser.item() == 0
    assert gradient(loss.regulariser, velocity).eq(0).all()
    flow(flow_batch() | {"velocity_SWLC": velocity + 1, "reference_velocity_SWLC": reference}).total.backward()
    assert reference.grad is None
    torch.testing.assert_close(velocity.grad, torch.full_like(velocity, 0.3 * 2 / (S * W * L * C)))


def test_nothing_old_receives_a_gradient() -> None:
    batch = flow_batch()
    for value in batch.values():
        value.requires_grad_()
    flow(batch).total.backward()
    assert batch["mean_SWLC"].grad is not None
    assert batch["old_mean_SWLC"].grad is batch["x_next_SWLC"].grad is batch["reference_velocity_SWLC"].grad is None


@pytest.mark.parametrize("cuts", [[[0, 1, 2], [3, 4, 5]], [[0], [1], [2], [3], [4], [5]], [[5, 0], [4, 1, 3, 2]]])
def test_accumulation_and_sharding_do_not_change_loss_gradient_or_statistics(cuts: list[list[int]]) -> None:
    batch = flow_batch()
    leaves = [batch["mean_SWLC"].requires_grad_(), batch["velocity_SWLC"].requires_grad_()]
    whole = flow(batch)
    parts = [flow(part(batch, rows)) for rows in cuts]
    loss = torch.stack([each.total for each in parts]).sum()
    torch.testing.assert_close(loss, whole.total)
    torch.testing.assert_close(torch.autograd.grad(loss, leaves), torch.autograd.grad(whole.total, leaves))
    stats = parts[0].stats
    for more in parts[1:]:
        stats = stats + more.stats
    assert stats.summary() == pytest.approx(whole.stats.summary())


def test_dummies_count_for_nothing_whatever_they_hold() -> None:
    batch = flow_batch()
    more = {name: torch.cat([value, value[:2] * 3]) for name, value in batch.items()}
    more["weight_S"] = torch.tensor([1.0] * S + [0.0] * 2)
    torch.testing.assert_close(flow(more).total, flow(batch).total)
    assert flow(more).stats.summary() == pytest.approx(flow(batch).stats.summary())


def test_precision_of_the_inputs_does_not_blur_a_clip_of_1e_6() -> None:
    # One element of shift d and noise xi = 1 gives log r~ = d / D: .9e-6 passes, 1.1e-6 is clipped, in float32 inputs.
    size = 20
    old_mean = torch.zeros(2, 1, 4, 5)
    x_next = torch.zeros(2, 1, 4, 5)
    x_next[:, :, 0, 0] = 1.0
    mean = torch.zeros(2, 1, 4, 5)
    mean[:, 0, 0, 0] = torch.tensor([0.9e-6, 1.1e-6]) * size
    mean.requires_grad_()
    loss = flow_loss(
        mean,
        old_mean,
        x_next,
        torch.ones(1, dtype=torch.float64),
        torch.ones(2),
        weight_S=torch.ones(2),
        clip=1e-6,
        ratio_norm=True,
        flow_weight=1.0,
        global_count=2,
    )
    of_mean = gradient(loss.policy, mean)[:, 0, 0, 0]
    assert of_mean.tolist() == pytest.approx([-1 / size / 2, 0])
    assert loss.stats.summary()["clip_high"] == 0.5
    assert loss.policy.item() == pytest.approx(-1 - 0.95e-6, abs=1e-12)


def test_latent_kl_comes_in_as_a_weight_per_window_step() -> None:
    grid_N = time_grid(25, 3.0)
    t_W, t_next_W = grid_N[1 : W + 1], grid_N[2 : W + 2]
    batch, x_SWLC = flow_batch(), random(S, W, L, C, seed=30)
    means = [
        sde_step(x_SWLC, batch[name], t_W[:, None, None], t_next_W[:, None, None], noise_level=0.8).mean
        for name in ("velocity_SWLC", "reference_velocity_SWLC")
    ]
    sigma_W = noise_scale(t_W, t_next_W, noise_level=0.8)
    expected = 0.04 * ((means[0] - means[1]).square().mean((-2, -1)) / (2 * sigma_W**2)).mean()
    loss = flow(batch, mse_weight=0.04 * latent_kl_weight(t_W, t_next_W, noise_level=0.8))
    torch.testing.assert_close(loss.regulariser, expected)


def test_without_a_reference_there_is_no_regulariser() -> None:
    batch = {name: value for name, value in flow_batch().items() if "velocity" not in name}
    loss = flow(batch, mse_weight=0.0)
    assert loss.regulariser.item() == 0
    assert loss.total.item() == loss.policy.item()
    assert not any("velocity" in name for name in loss.stats.summary())


def test_velocity_mse_by_hand() -> None:
    velocity, reference = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 4.0]]])
    assert velocity_mse(velocity, reference).tolist() == [(0 + 4 + 9 + 1) / 4]


@pytest.mark.parametrize("missing", ["velocity_SWLC", "reference_velocity_SWLC"])
def test_half_a_velocity_comparison_is_refused(missing: str) -> None:
    batch = flow_batch()
    del batch[missing]
    with pytest.raises(ValueError, match="only one of the two was given"):
        flow(batch)
