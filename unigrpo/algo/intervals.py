"""How sure a mean over a few runs is: Student's t interval.

Runs differ by their seeds, which are few, so the spread of the mean is known badly itself; the t distribution allows for that.
Its distribution function has a closed form for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4).
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

LEVEL = 0.95
"""Share of intervals that hold the true mean, when runs are normally distributed about it."""
HALVINGS = 60
"""Of the bracket around a quantile: as many as a float has bits, and some."""


def t_interval(values: Sequence[float], *, level: float = LEVEL) -> tuple[float, float] | None:
    """(low, high) around the mean of independent runs, n - 1 degrees of freedom; None for fewer than two, which say nothing.

    Raises ValueError for no value at all.
    """
    if not values:
        raise ValueError("an interval needs at least one value, but got none")
    if len(values) == 1:
        return None
    return _around(values, math.sqrt(1 / len(values)), level)


def one_more_run(values: Sequence[float], *, level: float = LEVEL) -> tuple[float, float] | None:
    """(low, high) around where one further run lies: mean -+ t s sqrt(1 + 1/n), the prediction interval of normal runs.

    None for fewer than two, which say nothing.
    """
    if len(values) < 2:
        return None
    return _around(values, math.sqrt(1 + 1 / len(values)), level)


def _around(values: Sequence[float], deviations: float, level: float) -> tuple[float, float]:
    """The mean of two runs or more, less and plus t times so many of their standard deviations."""
    half = t_quantile((1 + level) / 2, len(values) - 1) * stdev(values) * deviations
    mean = fmean(values)
    return mean - half, mean + half


def t_quantile(probability: float, degrees: int) -> float:
    """Where Student's t distribution with `degrees` of freedom reaches a probability in [0.5, 1)."""
    assert 0.5 <= probability < 1, f"probability is {probability}"
    assert degrees >= 1, f"degrees is {degrees}"
    low, high = 0.0, 1.0
    while t_distribution(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if t_distribution(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def t_distribution(value: float, degrees: int) -> float:
    """The probability that Student's t with `degrees` of freedom is at most `value`, which is not negative."""
    angle = math.atan(value / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees % 2 == 1
    term, total = (cosine, cosine if degrees > 1 else 0.0) if is_odd else (1.0, 1.0)
    for power in range(3 if is_odd else 2, degrees - 1, 2):
        term *= cosine**2 * (power - 1) / power
        total += term
    within = 2 / math.pi * (angle + sine * total) if is_odd else sine * total
    return 0.5 + within / 2
