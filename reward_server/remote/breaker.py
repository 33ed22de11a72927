"""The circuit breaker of one endpoint. Knows no clock: times are handed in, in seconds."""

from math import inf


class Breaker:
    """Closed, it lets every attempt through. After `failures` in a row, or when the endpoint asks for a pause, it is open: none
    goes through until the cooldown or pause has passed, then one goes on trial. A trial that succeeds closes it; one that fails
    opens it again, unless it was open for a pause only.
    """

    def __init__(self, *, failures: int, cooldown: float) -> None:
        self._limit = failures
        self._cooldown = cooldown
        self._in_a_row = 0
        self._on_trial = False
        self.opens_until = -inf
        """When the next attempt may go through; -inf while closed."""

    @property
    def closed(self) -> bool:
        return self.opens_until == -inf

    def admits(self, now: float) -> bool:
        """Whether an attempt may begin."""
        return now >= self.opens_until and not self._on_trial

    def begin(self) -> bool:
        """An admitted attempt begins; whether it is a trial, which is told to the method that ends it."""
        self._on_trial = not self.closed
        return self._on_trial

    def succeeded(self, *, trial: bool) -> None:
        """An attempt was answered. One that began before the breaker opened closes nothing: the endpoint may be pausing."""
        if trial or self.closed:
            self._in_a_row = 0
            self._on_trial = False
            self.opens_until = -inf

    def failed(self, now: float, *, trial: bool, pause: float) -> None:
        """An attempt had no answer, and the endpoint asks to be left alone for `pause` seconds (0: it asks nothing)."""
        self._in_a_row += 1
        if trial:
            self._on_trial = False
        if trial or self.closed:
            self.opens_until = now + self._cooldown if self._in_a_row >= self._limit else -inf
        if pause > 0:
            self.opens_until = max(self.opens_until, now + pause)

    def abandoned(self, *, trial: bool) -> None:
        """An attempt was cancelled, which says nothing about the endpoint."""
        if trial:
            self._on_trial = False
