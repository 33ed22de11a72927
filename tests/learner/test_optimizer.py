import pytest

from learner.optimizer import schedule


def test_schedule_rises_stays_and_falls() -> None:
    factors = [schedule(update, num_updates=10, warmup_updates=2, decay_updates=4) for update in range(10)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_schedule_is_flat_when_neither_end_is_asked_for() -> None:
    assert {schedule(update, num_updates=5, warmup_updates=0, decay_updates=0) for update in range(5)} == {1.0}
