"""The adapted weight: by hand, and that it finds the weight which holds a drift."""

import math

import pytest

from unigrpo.algo.adaptive import adapted_weight


@pytest.mark.parametrize(
    ("drift", "factor"), [(0.2, 1.0), (0.1, 0.95), (0.25, 1.025), (0.3, 1.05), (0.4, 1.1), (40.0, 1.1), (0.0, 0.9)]
)
def test_weights_worked_out_by_hand(drift: float, factor: float) -> None:
    assert adapted_weight(3.0, drift, target=0.2, rate=0.1, least=0.0) == pytest.approx(3.0 * factor)
    assert adapted_weight(3.0, drift, target=0.2, rate=0.1, least=2.9) == pytest.approx(max(2.9, 3.0 * factor))


def test_a_drift_that_falls_with_the_weight_settles_at_its_target() -> None:
    weight = 1e-3
    for _ in range(300):
        weight = adapted_weight(weight, 0.5 / (1 + 1e3 * weight), target=0.1, rate=0.1, least=1e-3)
    assert weight == pytest.approx(4e-3, rel=1e-3)  # .5 / (1 + 4) = .1


@pytest.mark.parametrize("drift", [math.nan, math.inf, -0.1])
def test_a_drift_that_is_none_is_refused(drift: float) -> None:
    with pytest.raises(ValueError, match="the drift is"):
        adapted_weight(1.0, drift, target=0.1, rate=0.1, least=1.0)


@pytest.mark.parametrize(("target", "rate"), [(0.0, 0.1), (-1.0, 0.1), (0.1, 0.0), (0.1, 1.0)])
def test_an_impossible_controller_is_refused(target: float, rate: float) -> None:
    with pytest.raises(ValueError, match=f"target is {target} and rate is {rate}"):
        adapted_weight(1.0, 0.1, target=target, rate=rate, least=1.0)
