"""A circuit breaker: after repeated failures a stage is not called during a cooldown, then tested with one call."""

import time
from typing import Literal

State = Literal["closed", "open", "half_open"]

FAILURES = 5  # in a row
COOLDOWN_S, MAX_COOLDOWN_S = 1.0, 30.0


class CircuitBreaker:
    """Opens after FAILURES failed calls in a row.

    Each cooldown is twice as long as the one before, up to MAX_COOLDOWN_S. The first successful call closes it.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._cooldown_s = COOLDOWN_S
        self._open_until_s = 0.0  # on the clock of time.monotonic()
        self._testing = False

    @property
    def state(self) -> State:
        """`closed`: calls pass. `open`: none do. `half_open`: a single call may pass, as a test."""
        if self._failures < FAILURES:
            return "closed"
        return "open" if self.cooldown_left_s() > 0 else "half_open"

    def cooldown_left_s(self) -> float:
        """Return the remaining seconds of the cooldown; negative once it is over."""
        return self._open_until_s - time.monotonic()

    def allow(self) -> bool:
        """Return whether a call may start now."""
        state = self.state
        return state == "closed" or (state == "half_open" and not self._testing)

    def on_start(self) -> None:
        """Record the start of a call."""
        self._testing = self.state == "half_open"

    def on_success(self) -> None:
        """Record a successful call."""
        self._failures, self._cooldown_s, self._testing = 0, COOLDOWN_S, False

    def on_failure(self) -> bool:
        """Record a failed call. Returns whether it opened the breaker."""
        tested, self._testing = self._testing, False
        self._failures += 1
        if self._failures != FAILURES and not tested:
            return False
        self._open_until_s = time.monotonic() + self._cooldown_s
        self._cooldown_s = min(MAX_COOLDOWN_S, 2 * self._cooldown_s)
        return True

    def on_cancel(self) -> None:
        """Record a call that was cancelled before its result was known."""
        self._testing = False
