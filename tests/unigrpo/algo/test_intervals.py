"""Quantiles against printed tables, the interval against one worked out by hand and against simulated runs."""

import math
import random

import pytest

from unigrpo.algo.intervals import one_more_run, t_distribution, t_interval, t_quantile

TABLE = [  # degrees of freedom, then P = .90, .95, .975, .995: the table of Student (1908) as textbooks print it
    (1, 3.078, 6.314, 12.706, 63.657),
    (2, 1.886, 2.920, 4.303, 9.925),
    (3, 1.638, 2.353, 3.182, 5.841),
    (4, 1.533, 2.132, 2.776, 4.604),
    (5, 1.476, 2.015, 2.571, 4.032),
    (8, 1.397, 1.860, 2.306, 3.355),
    (9, 1.383, 1.833, 2.262, 3.250),
    (15, 1.341, 1.753, 2.131, 2.947),
    (30, 1.310, 1.697, 2.042, 2.750),
    (120, 1.289, 1.658, 1.980, 2.617),
]


@pytest.mark.parametrize(("degrees", "at_90", "at_95", "at_975", "at_995"), TABLE)
def test_quantiles_are_those_of_the_tables(degrees: int, at_90: float, at_95: float, at_975: float, at_995: float) -> None:
    found = [t_quantile(probability, degrees) for probability in (0.90, 0.95, 0.975, 0.995)]
    assert [round(each, 3) for each in found] == [at_90, at_95, at_975, at_995]


def test_one_degree_is_the_cauchy_distribution_and_two_have_a_closed_form() -> None:
    for value in (0.0, 0.3, 2.0, 40.0):
        assert t_distribution(value, 1) == pytest.approx(0.5 + math.atan(value) / math.pi, abs=1e-12)
        assert t_distribution(value, 2) == pytest.approx(0.5 + value / (2 * math.sqrt(2 + value**2)), abs=1e-12)


def test_the_interval_of_three_runs_worked_out_by_hand() -> None:
    # mean .6; deviations -.1, 0, .1; variance .02 / 2 = .01; standard error .1 / sqrt 3 = .057735; times 4.30265 = .248414
    assert t_interval([0.5, 0.6, 0.7]) == pytest.approx((0.351586, 0.848414), abs=1e-6)


def test_equal_runs_leave_no_doubt_and_one_run_says_nothing_of_others() -> None:
    assert t_interval([0.25, 0.25]) == pytest.approx((0.25, 0.25))
    assert t_interval([0.25]) is None
    with pytest.raises(ValueError, match="at least one value"):
        t_interval([])


def test_95_percent_of_intervals_of_three_runs_hold_the_truth() -> None:
    rng = random.Random(5)
    intervals = [t_interval([rng.gauss(0.6, 0.05) for _ in range(3)]) for _ in range(4000)]
    assert sum(low < 0.6 < high for low, high in filter(None, intervals)) / 4000 == pytest.approx(0.95, abs=0.01)


def test_one_more_run_lies_wider_by_what_its_own_luck_adds() -> None:
    # deviation .1, times sqrt(1 + 1 / 3) = 1.154701, times 4.30265 = .496828
    assert one_more_run([0.5, 0.6, 0.7]) == pytest.approx((0.103172, 1.096828), abs=1e-6)
    assert one_more_run([0.25]) is None
