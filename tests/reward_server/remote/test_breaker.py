from math import inf

from reward_server.remote.breaker import Breaker


def failing(breaker: Breaker, *times: float, pause: float = 0.0) -> None:
    for now in times:
        assert breaker.admits(now)
        breaker.failed(now, trial=breaker.begin(), pause=pause)


def test_it_opens_after_failures_in_a_row_and_a_success_between_counts() -> None:
    breaker = Breaker(failures=3, cooldown=10.0)
    failing(breaker, 0.0, 1.0)
    breaker.succeeded(trial=breaker.begin())
    failing(breaker, 2.0, 3.0)
    assert breaker.closed
    failing(breaker, 4.0)
    assert (breaker.closed, breaker.opens_until) == (False, 14.0)
    assert not breaker.admits(13.9)


def test_one_trial_at_a_time_closes_it_or_opens_it_again() -> None:
    breaker = Breaker(failures=1, cooldown=10.0)
    failing(breaker, 0.0)
    assert breaker.admits(10.0)
    assert breaker.begin()
    assert not breaker.admits(11.0)
    breaker.failed(12.0, trial=True, pause=0.0)
    assert breaker.opens_until == 22.0
    assert breaker.begin()
    breaker.succeeded(trial=True)
    assert (breaker.closed, breaker.opens_until) == (True, -inf)


def test_a_cancelled_trial_leaves_the_next_one_to_another() -> None:
    breaker = Breaker(failures=1, cooldown=10.0)
    failing(breaker, 0.0)
    breaker.abandoned(trial=breaker.begin())
    assert breaker.admits(10.0)
    assert breaker.begin()


def test_attempts_that_began_before_it_opened_neither_close_it_nor_keep_it_open() -> None:
    breaker = Breaker(failures=1, cooldown=10.0)
    early, late = breaker.begin(), breaker.begin()
    failing(breaker, 0.0)
    breaker.succeeded(trial=early)
    assert not breaker.closed
    breaker.failed(9.0, trial=late, pause=0.0)
    assert breaker.opens_until == 10.0


def test_a_pause_opens_it_at_once_and_a_longer_one_counts() -> None:
    breaker = Breaker(failures=5, cooldown=10.0)
    others = breaker.begin(), breaker.begin()
    failing(breaker, 0.0, pause=3.0)
    assert breaker.opens_until == 3.0
    breaker.failed(1.0, trial=others[0], pause=1.0)
    assert breaker.opens_until == 3.0
    breaker.failed(1.0, trial=others[1], pause=20.0)
    assert breaker.opens_until == 21.0


def test_a_failure_after_a_mere_pause_is_one_failure_among_others() -> None:
    breaker = Breaker(failures=3, cooldown=10.0)
    failing(breaker, 0.0, pause=3.0)
    failing(breaker, 3.0)
    assert breaker.closed
    failing(breaker, 4.0)
    assert breaker.opens_until == 14.0
