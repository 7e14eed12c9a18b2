"""The clock of a run, and the lag of the load generator."""

import asyncio
import time
from bisect import bisect_left

_TICK_S = 0.01


class Clock:
    """Measures the time since its creation, and the lag of the event loop.

    Run `watch` as a task during the measurement.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._at_s: list[float] = []
        self._late_s: list[float] = []

    def now_s(self) -> float:
        """Return the seconds since the clock was created."""
        return time.monotonic() - self._began

    async def watch(self) -> None:
        """Record the lag of the event loop a hundred times a second. Never returns."""
        while True:
            due_s = self.now_s() + _TICK_S
            await asyncio.sleep(_TICK_S)
            at_s = self.now_s()
            self._at_s.append(at_s)
            self._late_s.append(at_s - due_s)

    def lag_s(self, since_s: float, until_s: float) -> float:
        """Return the largest lag of the event loop between two times."""
        first, last = bisect_left(self._at_s, since_s), bisect_left(self._at_s, until_s + _TICK_S)
        return max(self._late_s[first:last], default=0.0)
