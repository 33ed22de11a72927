"""The denoising loop against integrals known in closed form, and the independence of a sample from its batch."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unigrpo.algo.flow import ode_step, sde_step, time_grid
from unigrpo.denoise import Denoised, denoise, seeded_noise, trajectories

# Shapes: S samples, W window steps, N grid points, L latent tokens, C channels.

SHAPE_LC = (6, 4)
SEEDS = [11, 12, 13]
Velocity = Callable[[Tensor, float], Tensor]


def towards(target: float) -> Velocity:
    """The exact velocity field of data that is one point: v = eps - x_0 = (x_t - x_0) / t."""
    return lambda x_SLC, t: (x_SLC - target) / t


def nonlinear(x_SLC: Tensor, t: float) -> Tensor:
    return torch.tanh(x_SLC.roll(1, -1)) * t + 0.1 * x_SLC


def run(
    seeds: list[int],
    windows: range | list[range] | None,
    *,
    num_points: int = 9,
    noise_level: float = 0.8,
    velocity: Velocity = nonlinear,
) -> Denoised:
    """One window is everybody's."""
    return denoise(
        velocity,
        seeded_noise(seeds, "start", SHAPE_LC),
        time_grid(num_points, 3.0),
        [windows] * len(seeds) if isinstance(windows, range) else windows,
        noise_level,
        lambda k: seeded_noise(seeds, k, SHAPE_LC),
    )


def test_straight_paths_end_exactly_at_their_target() -> None:
    torch.testing.assert_close(run(SEEDS, None, velocity=towards(2.5)).latent_SLC, torch.full((3, *SHAPE_LC), 2.5))


def test_deterministic_integration_approaches_the_exponential() -> None:
    # dx/dt = x from t = 1 to 0 is x(0) = x(1) / e; Euler on an even grid of n steps gives (1 - 1/n)^n.
    noise_SLC = torch.ones(1, *SHAPE_LC, dtype=torch.float64)
    grid_N = time_grid(11, 1.0)
    final = denoise(lambda x_SLC, _: x_SLC, noise_SLC, grid_N, None, 0.8, lambda _: noise_SLC).latent_SLC
    torch.testing.assert_close(final, noise_SLC * 0.9**10)
    assert float(final.mean()) == pytest.approx(math.exp(-1), abs=0.02)


def test_n_points_are_n_minus_1_evaluations_at_all_but_the_last() -> None:
    times: list[float] = []

    def velocity(x_SLC: Tensor, t: float) -> Tensor:
        times.append(t)
        return x_SLC

    run(SEEDS, None, num_points=7, velocity=velocity)
    assert times == time_grid(7, 3.0).tolist()[:-1]


def test_window_steps_are_stochastic_and_all_others_deterministic() -> None:
    drawn: list[int] = []
    grid_N = time_grid(9, 3.0)

    def draw(k: int) -> Tensor:
        drawn.append(k)
        return seeded_noise(SEEDS, k, SHAPE_LC)

    done = denoise(nonlinear, seeded_noise(SEEDS, "start", SHAPE_LC), grid_N, [range(2, 5)] * 3, 0.8, draw)
    assert drawn == [2, 3, 4]
    x_SLC = seeded_noise(SEEDS, "start", SHAPE_LC)
    for k in range(8):
        t, t_next = float(grid_N[k]), float(grid_N[k + 1])
        if k in (2, 3, 4):
            torch.testing.assert_close(done.x_SWLC[:, k - 2], x_SLC, rtol=0, atol=0)
            x_SLC = done.x_next_SWLC[:, k - 2]
        else:
            x_SLC = ode_step(x_SLC, nonlinear(x_SLC, t), t, t_next)
    torch.testing.assert_close(done.latent_SLC, x_SLC, rtol=0, atol=0)


def test_recorded_transitions_are_those_that_were_drawn() -> None:
    grid_N = time_grid(9, 3.0)
    done = run(SEEDS, range(3))
    std_W = done.sigma_SW[0] * (grid_N[:3] - grid_N[1:4]).sqrt()
    for k in range(3):
        xi_SLC = (done.x_next_SWLC[:, k] - done.mean_SWLC[:, k]) / std_W[k].float()
        torch.testing.assert_close(xi_SLC, seeded_noise(SEEDS, k, SHAPE_LC), rtol=1e-4, atol=1e-5)


def test_a_learner_finds_the_sampled_means_bit_by_bit_from_all_window_steps_at_once() -> None:
    grid_N = time_grid(9, 3.0)
    done = run(SEEDS, range(1, 4))
    v_SWLC = torch.stack([nonlinear(done.x_SWLC[:, w], float(grid_N[1 + w])) for w in range(3)], 1)
    step = sde_step(done.x_SWLC, v_SWLC, grid_N[1:4, None, None], grid_N[2:5, None, None], noise_level=0.8)
    torch.testing.assert_close(step.mean, done.mean_SWLC, rtol=0, atol=0)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    together, alone = run(SEEDS, range(1, 4)), run([12], range(1, 4))
    torch.testing.assert_close(together.latent_SLC[1:2], alone.latent_SLC, rtol=0, atol=0)
    torch.testing.assert_close(together.x_next_SWLC[1:2], alone.x_next_SWLC, rtol=0, atol=0)
    assert not torch.equal(together.latent_SLC[0], together.latent_SLC[1])


def test_draws_of_one_sample_are_independent_standard_normals() -> None:
    draws = torch.stack([seeded_noise([5], draw, (64, 64)).flatten() for draw in ("start", 0, 1, 2)])
    torch.testing.assert_close(draws.mean(1), torch.zeros(4), rtol=0, atol=0.06)
    torch.testing.assert_close(torch.corrcoef(draws), torch.eye(4), rtol=0, atol=0.06)


def test_low_precision_velocities_leave_the_latents_in_float32() -> None:
    done = run(SEEDS, range(2), velocity=lambda x_SLC, t: nonlinear(x_SLC, t).bfloat16())
    assert {done.latent_SLC.dtype, done.x_SWLC.dtype, done.x_next_SWLC.dtype, done.mean_SWLC.dtype} == {torch.float32}


def test_no_gradient_is_kept() -> None:
    weight = torch.ones(4, 4, requires_grad=True)
    assert not run(SEEDS, range(2), velocity=lambda x_SLC, _: x_SLC @ weight).latent_SLC.requires_grad


def test_trajectories_own_their_memory() -> None:
    done = run(SEEDS, range(1, 3))
    records = trajectories(done, grid_hw=(2, 3), cfg_scale=1.0, policy_version=4)
    assert len(records) == 3
    for sample, record in enumerate(records):
        torch.testing.assert_close(record.x_WLC, done.x_SWLC[sample], rtol=0, atol=0)
        torch.testing.assert_close(record.x_next_WLC, done.x_next_SWLC[sample], rtol=0, atol=0)
        torch.testing.assert_close(record.mean_WLC, done.mean_SWLC[sample], rtol=0, atol=0)
        assert (record.start, record.grid_hw, record.cfg_scale, record.policy_version) == (1, (2, 3), 1.0, 4)
        torch.testing.assert_close(record.latent_LC, done.latent_SLC[sample], rtol=0, atol=0)
        assert record.sigma_W.tolist() == done.sigma_SW[sample].tolist()
        assert record.grid_N.tolist() == time_grid(9, 3.0).tolist()
        for tensor in (record.x_WLC, record.x_next_WLC, record.mean_WLC, record.sigma_W, record.latent_LC):
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_without_windows_nothing_is_recorded_but_the_end() -> None:
    for windows in (None, range(0)):
        done = run(SEEDS, windows)
        assert done.x_SWLC.shape == done.mean_SWLC.shape == (3, 0, *SHAPE_LC)
        assert done.sigma_SW.shape == (3, 0)
        [record, *_] = trajectories(done, grid_hw=(2, 3), cfg_scale=1.0, policy_version=4)
        assert record.sigma_W.shape == (0,)
        torch.testing.assert_close(record.latent_LC, done.latent_SLC[0], rtol=0, atol=0)


def test_every_sample_has_the_window_that_it_has_alone() -> None:
    windows = [range(2), range(3, 5), range(1, 3)]
    together = trajectories(run(SEEDS, windows), grid_hw=(2, 3), cfg_scale=1.0, policy_version=4)
    for seed, window, record in zip(SEEDS, windows, together, strict=True):
        [alone] = trajectories(run([seed], window), grid_hw=(2, 3), cfg_scale=1.0, policy_version=4)
        assert record.start == window.start
        for name in ("x_WLC", "x_next_WLC", "mean_WLC", "sigma_W", "latent_LC"):
            torch.testing.assert_close(getattr(record, name), getattr(alone, name), rtol=0, atol=0)


def test_steps_recorded_without_noise_are_the_deterministic_ones_up_to_the_last() -> None:
    done, plain = run(SEEDS, range(6, 8), noise_level=0.0), run(SEEDS, None)
    torch.testing.assert_close(done.latent_SLC, plain.latent_SLC, rtol=0, atol=0)
    torch.testing.assert_close(done.x_next_SWLC[:, 1], plain.latent_SLC, rtol=0, atol=0)
    torch.testing.assert_close(done.mean_SWLC, done.x_next_SWLC, rtol=0, atol=0)
    assert done.sigma_SW.tolist() == [[0.0, 0.0]] * 3
    grid_N = time_grid(9, 3.0).tolist()
    for w, k in enumerate((6, 7)):
        x_SLC = done.x_SWLC[:, w]
        step = ode_step(x_SLC, nonlinear(x_SLC, grid_N[k]), grid_N[k], grid_N[k + 1])
        torch.testing.assert_close(done.x_next_SWLC[:, w], step, rtol=0, atol=0)


def test_the_size_of_the_velocity_is_over_all_steps_and_elements() -> None:
    """Grid of 3 points without shift: t is 1, then 1/2. Half of the elements have velocity 2 t, the others none."""
    noise_SLC = torch.tensor([[[1.0, 1.0]], [[0.0, 1.0]]])
    steady = denoise(
        lambda _, t: 2 * t * noise_SLC.bfloat16(), noise_SLC, time_grid(3, 1.0), [range(1)] * 2, 0.8, lambda _: noise_SLC
    )
    expected = [((4 + 1) / 2) ** 0.5, ((4 + 1) / 4) ** 0.5]
    assert steady.velocity_rms_S.tolist() == pytest.approx(expected)


def test_windows_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"windows of one batch are of one length, but got \[range\(0, 2\), range\(0, 3\)\]"):
        run([1, 2], [range(2), range(3)])


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (range(6, 8), "cannot end at t = 0"),
        (range(7, 9), "does not lie within the 8 steps"),
        (range(-1, 2), "does not lie within the 8 steps"),
        (range(0, 4, 2), "does not lie within the 8 steps"),
    ],
)
def test_impossible_windows_are_refused_before_the_first_evaluation(window: range, message: str) -> None:
    def velocity(x_SLC: Tensor, t: float) -> Tensor:
        raise AssertionError("evaluated")

    with pytest.raises(ValueError, match=message):
        run(SEEDS, window, velocity=velocity)


def test_low_precision_latents_are_refused() -> None:
    noise_SLC = seeded_noise(SEEDS, "start", SHAPE_LC).bfloat16()
    with pytest.raises(ValueError, match=r"latents are kept in float32, but the noise is torch\.bfloat16"):
        denoise(nonlinear, noise_SLC, time_grid(9, 3.0), None, 0.8, lambda _: noise_SLC)
