"""Flow steps and their densities against torch.distributions, hand-made numbers and figures at the paper's size."""

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from unigrpo.algo.flow import (
    D_REF,
    latent_kl_weight,
    log_ratio,
    noise_scale,
    normalised_log_ratio,
    ode_step,
    rescale_to_elements,
    sde_step,
    time_grid,
    window_start,
)

# Shapes: S samples, W window steps, N grid points, L latent tokens, C channels, D = L*C.

ETA = 0.8


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def first_steps(count: int = 5) -> tuple[Tensor, Tensor]:
    grid_N = time_grid(25, 3.0)
    return grid_N[:count], grid_N[1 : count + 1]


# The time grid.


def test_grid_of_the_paper() -> None:
    grid_N = time_grid(25, 3.0)
    assert grid_N.dtype == torch.float64
    assert grid_N[:6].tolist() == pytest.approx([1, 0.9857, 0.9706, 0.9545, 0.9375, 0.9194], abs=5e-5)
    assert (grid_N[:5] - grid_N[1:6]).tolist() == pytest.approx([0.0143, 0.0151, 0.0160, 0.0170, 0.0181], abs=5e-5)


def test_grid_by_hand() -> None:
    # 1, 3/4, 1/2, 1/4, 0 shifted by 3: 3t / (1 + 2t).
    assert time_grid(5, 3.0).tolist() == pytest.approx([1, 2.25 / 2.5, 1.5 / 2, 0.75 / 1.5, 0])
    assert time_grid(5, 1.0).tolist() == pytest.approx([1, 0.75, 0.5, 0.25, 0])


@pytest.mark.parametrize("num_points", [2, 10, 25, 50, 1000])
@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0, 12.0])
def test_grid_runs_from_exactly_one_to_exactly_zero(num_points: int, shift: float) -> None:
    grid_N = time_grid(num_points, shift)
    assert grid_N.shape == (num_points,)
    assert (float(grid_N[0]), float(grid_N[-1])) == (1.0, 0.0)
    assert (grid_N.diff() < 0).all()


# Steps.


def test_standard_deviations_of_the_paper() -> None:
    t_W, t_next_W = first_steps()
    std_W = sde_step(
        torch.zeros(5, 1, 1), torch.zeros(5, 1, 1), t_W[:, None, None], t_next_W[:, None, None], noise_level=ETA
    ).std
    assert std_W.flatten().tolist() == pytest.approx([0.800, 0.817, 0.582, 0.479, 0.417], abs=5e-4)


def test_coefficients_of_the_paper() -> None:
    t_W, t_next_W = first_steps()
    one, zero = torch.ones(5, 1, 1, dtype=torch.float64), torch.zeros(5, 1, 1, dtype=torch.float64)
    of_x = sde_step(one, zero, t_W[:, None, None], t_next_W[:, None, None], noise_level=ETA).mean.flatten()
    of_v = sde_step(zero, one, t_W[:, None, None], t_next_W[:, None, None], noise_level=ETA).mean.flatten()
    assert of_x.tolist() == pytest.approx([0.68, 0.661, 0.825, 0.880, 0.907], abs=6e-4)
    # 1 + eta^2/2 = 1.32 whatever the schedule, except at t = 1, where the extra velocity term carries 1 - t = 0.
    assert (-of_v / (t_W - t_next_W)).tolist() == pytest.approx([1, 1.32, 1.32, 1.32, 1.32])


def test_sde_mean_is_the_contract_formula() -> None:
    x_SLC, v_SLC, t, t_next = random(3, 4, 2), random(3, 4, 2, seed=1), 0.7, 0.55
    sigma, h = 0.9 * math.sqrt(0.7 / 0.3), 0.15
    step = sde_step(x_SLC, v_SLC, t, t_next, noise_level=0.9)
    torch.testing.assert_close(step.mean, x_SLC - h * (v_SLC + sigma**2 / (2 * t) * (x_SLC + (1 - t) * v_SLC)))
    assert float(step.std) == pytest.approx(sigma * math.sqrt(h))


def test_noise_scale_by_hand_and_its_only_substitution_at_one() -> None:
    assert float(noise_scale(0.8, 0.5, noise_level=0.5)) == pytest.approx(0.5 * 2)
    assert float(noise_scale(1.0, 0.96, noise_level=0.5)) == pytest.approx(0.5 * 5)
    assert float(noise_scale(1.0, 0.5, noise_level=0.5)) == pytest.approx(0.5 * math.sqrt(2))
    just_below = math.nextafter(1, 0)
    assert float(noise_scale(just_below, 0.5, noise_level=0.5)) == pytest.approx(0.5 * math.sqrt(just_below / (1 - just_below)))


def test_first_step_has_exactly_the_noise_level_as_std() -> None:
    for num_points in (10, 25, 50):
        grid_N = time_grid(num_points, 3.0)
        step = sde_step(random(1, 2, 2), random(1, 2, 2), float(grid_N[0]), float(grid_N[1]), noise_level=ETA)
        assert float(step.std) == pytest.approx(ETA, rel=1e-12)


def test_sde_keeps_the_marginals_of_the_flow_to_first_order_in_the_step() -> None:
    # Data N(m, s^2): x_t is N((1-t) m, (1-t)^2 s^2 + t^2), and v = E[eps - x_0 | x_t] is linear in x_t.
    m, s, t, h = 1.5, 0.4, 0.6, 1e-4
    variance = (1 - t) ** 2 * s**2 + t**2
    slope = (t - (1 - t) * s**2) / variance

    def mean_of(x: float) -> float:
        v = slope * (x - (1 - t) * m) - m
        x_111, v_111 = torch.full((1, 1, 1), x, dtype=torch.float64), torch.full((1, 1, 1), v, dtype=torch.float64)
        return float(sde_step(x_111, v_111, t, t - h, noise_level=0.7).mean)

    std = float(sde_step(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), t, t - h, noise_level=0.7).std)
    gain, offset = mean_of(1.0) - mean_of(0.0), mean_of(0.0)
    t_next = t - h
    assert gain * (1 - t) * m + offset == pytest.approx((1 - t_next) * m, abs=1e-7)
    assert gain**2 * variance + std**2 == pytest.approx((1 - t_next) ** 2 * s**2 + t_next**2, abs=1e-7)


def test_ode_step_by_hand_and_as_the_limit_of_no_noise() -> None:
    x_SLC, v_SLC = random(2, 3, 4), random(2, 3, 4, seed=1)
    torch.testing.assert_close(ode_step(x_SLC, v_SLC, 0.75, 0.5), x_SLC - 0.25 * v_SLC)
    torch.testing.assert_close(sde_step(x_SLC, v_SLC, 0.75, 0.5, noise_level=1e-9).mean, ode_step(x_SLC, v_SLC, 0.75, 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_and_tensors_of_times_give_the_same_bits(dtype: torch.dtype) -> None:
    t_W, t_next_W = first_steps()
    x_SWLC, v_SWLC = random(2, 5, 3, 4, dtype=dtype), random(2, 5, 3, 4, seed=1, dtype=dtype)
    t_W11, t_next_W11 = t_W[:, None, None], t_next_W[:, None, None]
    together = sde_step(x_SWLC, v_SWLC, t_W11, t_next_W11, noise_level=ETA)
    deterministic = ode_step(x_SWLC, v_SWLC, t_W11, t_next_W11)
    assert together.mean.dtype == deterministic.dtype == dtype
    assert together.std.dtype == torch.float64
    for w, (t, t_next) in enumerate(zip(t_W.tolist(), t_next_W.tolist(), strict=True)):
        alone = sde_step(x_SWLC[:, w], v_SWLC[:, w], t, t_next, noise_level=ETA)
        assert torch.equal(together.mean[:, w], alone.mean)
        assert float(together.std[w]) == float(alone.std)
        assert torch.equal(deterministic[:, w], ode_step(x_SWLC[:, w], v_SWLC[:, w], t, t_next))


def test_low_precision_velocity_is_widened_before_the_arithmetic() -> None:
    x_SLC, v_SLC = random(1, 3, 4, dtype=torch.float32), random(1, 3, 4, seed=1, dtype=torch.bfloat16)
    low = sde_step(x_SLC, v_SLC, 0.9, 0.8, noise_level=ETA).mean
    assert torch.equal(low, sde_step(x_SLC, v_SLC.float(), 0.9, 0.8, noise_level=ETA).mean)
    assert torch.equal(ode_step(x_SLC, v_SLC, 0.9, 0.8), ode_step(x_SLC, v_SLC.float(), 0.9, 0.8))


@pytest.mark.parametrize(("t", "t_next"), [(0.5, 0.5), (0.5, 0.6), (1.1, 0.5), (0.5, -0.1), (math.nan, 0.5)])
def test_times_out_of_order_are_refused(t: float, t_next: float) -> None:
    x_SLC = torch.zeros(1, 1, 1)
    for step in (lambda: ode_step(x_SLC, x_SLC, t, t_next), lambda: sde_step(x_SLC, x_SLC, t, t_next, noise_level=ETA)):
        with pytest.raises(ValueError, match="take consecutive points of time_grid"):
            step()


def test_last_step_is_deterministic() -> None:
    x_SLC = torch.ones(1, 1, 1)
    with pytest.raises(ValueError, match="cannot end at t = 0"):
        sde_step(x_SLC, x_SLC, 0.2, 0.0, noise_level=ETA)
    assert float(ode_step(x_SLC, x_SLC, 0.2, 0.0)) == pytest.approx(0.8)


# Densities and ratios.


def pair(seed: int = 0, shift: float = 0.05) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """mean, old_mean, x_next [2, 3, 4, 5] and std [3, 1, 1], float64."""
    old_mean_SWLC = random(2, 3, 4, 5, seed=seed)
    std_W11 = torch.tensor([0.8, 0.5, 0.3], dtype=torch.float64)[:, None, None]
    x_next_SWLC = old_mean_SWLC + std_W11 * random(2, 3, 4, 5, seed=seed + 1)
    return old_mean_SWLC + shift * random(2, 3, 4, 5, seed=seed + 2), old_mean_SWLC, x_next_SWLC, std_W11


def density(x_SWLC: Tensor, mean_SWLC: Tensor, std_W11: Tensor) -> Tensor:
    """[S, W] log-density summed over D, by torch.distributions."""
    log_prob: Tensor = Independent(Normal(mean_SWLC, std_W11.expand_as(mean_SWLC)), 2).log_prob(x_SWLC)
    return log_prob


def test_log_ratio_is_the_difference_of_densities() -> None:
    mean, old_mean, x_next, std = pair(shift=0.5)
    expected = (density(x_next, mean, std) - density(x_next, old_mean, std)) / 20
    torch.testing.assert_close(log_ratio(mean, old_mean, x_next, std), expected)


def test_ratio_norm_is_equation_5_in_closed_form() -> None:
    mean, old_mean, x_next, std = pair(shift=0.5)
    shift_squared = (mean - old_mean).square().sum((-2, -1))
    s_W = std.flatten()
    log_r = density(x_next, mean, std) - density(x_next, old_mean, std)
    expected = s_W * (log_r + shift_squared / (2 * s_W**2)) / 20
    torch.testing.assert_close(normalised_log_ratio(mean, old_mean, x_next, std), expected)


def test_ratios_are_exactly_one_before_the_first_update() -> None:
    mean, _, x_next, std = pair()
    for ratio in (log_ratio, normalised_log_ratio):
        assert ratio(mean.float(), mean.float(), x_next.float(), std).eq(0).all()


def test_gradient_of_ratio_norm_is_the_drawn_noise_over_the_elements() -> None:
    mean, old_mean, x_next, std = pair()
    mean = mean.requires_grad_()
    (gradient,) = torch.autograd.grad(normalised_log_ratio(mean, old_mean, x_next, std).sum(), mean)
    torch.testing.assert_close(gradient, (x_next - old_mean) / std / 20)


def test_gradient_of_the_plain_ratio_on_policy_is_the_score_over_the_elements() -> None:
    _, old_mean, x_next, std = pair()
    mean = old_mean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(log_ratio(mean, old_mean, x_next, std).sum(), mean)
    torch.testing.assert_close(gradient, (x_next - old_mean) / std**2 / 20)


@pytest.mark.parametrize("ratio", [log_ratio, normalised_log_ratio])
def test_gradients_by_finite_differences_and_none_into_what_is_old(ratio) -> None:  # type: ignore[no-untyped-def]
    mean, old_mean, x_next, std = pair()
    assert torch.autograd.gradcheck(lambda m: ratio(m, old_mean, x_next, std), mean.requires_grad_())
    old_mean, x_next = old_mean.requires_grad_(), x_next.requires_grad_()
    ratio(mean, old_mean, x_next, std).sum().backward()
    assert old_mean.grad is None
    assert x_next.grad is None


def test_ratio_norm_spreads_as_the_shift_over_the_root_of_the_elements() -> None:
    # 4096 draws of D = 256 elements: mean 0 and standard deviation rms(dmu) / sqrt(D), whatever the std of the step.
    shift_LC = 1e-3 * random(16, 16, seed=5)
    rms = float(shift_LC.square().mean().sqrt())
    for std in (0.3, 0.8):
        x_next_SLC = std * random(4096, 16, 16, seed=6)
        ratio_S = normalised_log_ratio(shift_LC, torch.zeros(16, 16), x_next_SLC, std)
        assert float(ratio_S.std()) == pytest.approx(rms / 16, rel=0.05)
        assert abs(float(ratio_S.mean())) < 4 * rms / 16 / 64


def test_paper_clip_of_1e_6_is_two_standard_deviations_where_the_paper_says_it_binds() -> None:
    # rms(dmu) = 5e-4 at D = 262,144 makes std(log r~) = 5e-4 / 512, about the clip; half that at 512 px likewise.
    assert 5e-4 / math.sqrt(D_REF) == pytest.approx(1e-6, rel=0.03)
    assert 2.6e-4 / math.sqrt(D_REF / 4) == pytest.approx(1e-6, rel=0.03)


def test_float32_inputs_lose_nothing_of_a_log_ratio_of_1e_6() -> None:
    # D = 65,536 elements: the closed form against a correctly rounded sum over the same float32 numbers.
    old_mean = random(256, 256, seed=1, dtype=torch.float32)
    mean = old_mean + 2.6e-4 * random(256, 256, seed=2, dtype=torch.float32)
    x_next = old_mean + 0.58 * random(256, 256, seed=3, dtype=torch.float32)
    exact = math.fsum(((mean.double() - old_mean.double()) * (x_next.double() - old_mean.double())).flatten().tolist()) / (
        0.58 * 65_536
    )
    assert float(normalised_log_ratio(mean, old_mean, x_next, 0.58)) == pytest.approx(exact, rel=1e-12, abs=1e-18)
    assert 1e-8 < abs(exact) < 5e-6


# Latent KL, window, scaling.


def test_latent_kl_weight_turns_velocity_mse_into_flow_grpos_kl() -> None:
    t_W, t_next_W = first_steps()
    t_W11, t_next_W11 = t_W[:, None, None], t_next_W[:, None, None]
    x_SWLC, v_SWLC, reference_SWLC = random(2, 5, 3, 4), random(2, 5, 3, 4, seed=1), random(2, 5, 3, 4, seed=2)
    mean = sde_step(x_SWLC, v_SWLC, t_W11, t_next_W11, noise_level=ETA).mean
    reference_mean = sde_step(x_SWLC, reference_SWLC, t_W11, t_next_W11, noise_level=ETA).mean
    sigma_W = noise_scale(t_W, t_next_W, noise_level=ETA)
    expected_SW = (mean - reference_mean).square().mean((-2, -1)) / (2 * sigma_W**2)
    mse_SW = (v_SWLC - reference_SWLC).square().mean((-2, -1))
    torch.testing.assert_close(latent_kl_weight(t_W, t_next_W, noise_level=ETA) * mse_SW, expected_SW)


def test_latent_kl_is_the_gaussian_kl_times_the_step_length() -> None:
    t, t_next = 0.9, 0.85
    x, v, reference = random(1, 3, 4), random(1, 3, 4, seed=1), random(1, 3, 4, seed=2)
    step, anchor = (sde_step(x, velocity, t, t_next, noise_level=ETA) for velocity in (v, reference))
    kl = torch.distributions.kl_divergence(Normal(step.mean, step.std), Normal(anchor.mean, anchor.std)).mean()
    value = latent_kl_weight(t, t_next, noise_level=ETA) * (v - reference).square().mean()
    torch.testing.assert_close(value, kl * (t - t_next))


def test_without_noise_a_stochastic_step_is_the_deterministic_one() -> None:
    grid_N = time_grid(5, 3.0).tolist()
    for t, t_next in pairwise(grid_N):
        x, v = random(2, 6, 4), random(2, 6, 4, seed=1)
        step = sde_step(x, v, t, t_next, noise_level=0.0)
        torch.testing.assert_close(step.mean, ode_step(x, v, t, t_next), rtol=0, atol=0)
        assert step.std == 0


def test_window_starts_are_uniform_over_an_exclusive_range() -> None:
    starts = Counter(window_start(3, step, (0, 5), 3) for step in range(3000))
    assert sorted(starts) == [0, 1, 2]
    assert min(starts.values()) > 900


def test_window_start_depends_on_seed_and_step_only() -> None:
    first = [window_start(1, step, (2, 9), 3) for step in range(64)]
    assert first == [window_start(1, step, (2, 9), 3) for step in range(64)]
    assert first != [window_start(2, step, (2, 9), 3) for step in range(64)]
    assert set(first) == {2, 3, 4, 5, 6}


def test_window_that_fills_its_range_starts_at_its_beginning() -> None:
    assert {window_start(0, step, (4, 7), 3) for step in range(20)} == {4}


@pytest.mark.parametrize(("window_range", "size"), [((0, 2), 3), ((4, 5), 2), ((0, 5), 0)])
def test_windows_that_do_not_fit_are_refused(window_range: tuple[int, int], size: int) -> None:
    with pytest.raises(ValueError, match="does not fit into"):
        window_start(0, 0, window_range, size)


def test_rescaling_by_hand() -> None:
    assert rescale_to_elements(1e-6, 64 * 64 * 64) == 1e-6
    assert rescale_to_elements(1e-6, 32 * 32 * 64) == pytest.approx(2e-6)
    assert rescale_to_elements(1e-6, 144) == pytest.approx(4.27e-5, rel=1e-3)
    assert rescale_to_elements(1.5e-5, 144) == pytest.approx(6.4e-4, rel=1e-2)
