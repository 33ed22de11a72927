"""The window of recorded steps, against the flow contract (grid, window, sigma of docs/deviations.md) written out."""

from pathlib import Path
from typing import Any

import pytest
from torch.testing import assert_close

from learner.window import Window
from tests.learner.tiny import make_config


def window(step: int, kind: str = "unigrpo", **changes: Any) -> Window:
    return Window.of(make_config(Path("unused"), Path("unused"), kind, **changes), step)


def test_a_shared_window_is_a_function_of_seed_and_step() -> None:
    assert window(5).starts == window(5).starts
    assert {window(step).starts for step in range(40)} == {range(start, start + 1) for start in (0, 1, 2)}
    assert window(5).names == [f"k{window(5).starts[0] + w}" for w in range(2)]


def test_a_window_of_each_paintings_own_may_start_anywhere_in_the_range() -> None:
    own = window(5, algorithm__window__placement="sample")
    assert own.starts == range(3)
    assert own.names == ["w0", "w1"]


def test_noise_levels_are_eta_times_the_square_root_of_t_over_1_minus_t() -> None:
    times = [3 * t / (1 + 2 * t) for t in (1.0, 0.8, 0.6)]
    found = window(0)
    assert found.times(0).tolist() == pytest.approx(times)
    expected = [0.8 * (t / (1 - held)) ** 0.5 for t, held in zip(times, (times[1], times[1]), strict=False)]
    assert found.sigma(0).tolist() == pytest.approx(expected)


def test_a_late_step_is_taken_without_noise_and_may_be_the_last() -> None:
    late = window(3, "refl", algorithm__late_steps=[4, 5])
    assert (late.starts, late.size) == (range(4, 5), 1)
    assert late.sigma(4).tolist() == [0.0]
    assert late.times(4)[-1] == 0


@pytest.mark.parametrize("kind", ["text_grpo", "fpo"])
def test_without_a_window_nothing_is_recorded(kind: str) -> None:
    none = window(3, kind)
    assert (none.size, none.names) == (0, [])
    assert_close(none.grid_N, window(3).grid_N)
    assert none.sigma(0).shape == (0,)
