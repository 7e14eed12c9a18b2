"""A circuit breaker: a stage that fails again and again is left alone for a while, then tried with one call."""

import time
from typing import Literal

State = Literal["closed", "open", "half_open"]

FAILURES = 5  # in a row
COOLDOWN_S, MAX_COOLDOWN_S = 1.0, 30.0


class CircuitBreaker:
    """Opens after FAILURES failed calls in a row. Each rest is twice the last, up to LONGEST_REST_S; the first call
    that is answered closes it.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._rest_s = COOLDOWN_S
        self._until_s = 0.0  # rests until then, on the clock of time.monotonic()
        self._trying = False

    @property
    def state(self) -> State:
        """closed: calls pass. open: none do. half_open: one may, to see."""
        if self._failures < FAILURES:
            return "closed"
        return "open" if self.rests_s() > 0 else "half_open"

    def rests_s(self) -> float:
        """Seconds of rest that are left; below zero once it is over."""
        return self._until_s - time.monotonic()

    def lets_pass(self) -> bool:
        """Whether a call may begin now."""
        state = self.state
        return state == "closed" or (state == "half_open" and not self._trying)

    def began(self) -> None:
        """A call began."""
        self._trying = self.state == "half_open"

    def answered(self) -> None:
        """A call was answered."""
        self._failures, self._rest_s, self._trying = 0, COOLDOWN_S, False

    def failed(self) -> bool:
        """A call failed. True when that opened it."""
        tried, self._trying = self._trying, False
        self._failures += 1
        if self._failures != FAILURES and not tried:
            return False
        self._until_s = time.monotonic() + self._rest_s
        self._rest_s = min(MAX_COOLDOWN_S, 2 * self._rest_s)
        return True

    def abandoned(self) -> None:
        """A call was given up before it could tell."""
        self._trying = False
