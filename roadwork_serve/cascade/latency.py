"""How long calls of a stage take, by batch size: a running estimate from the last of them."""

import math
import time
from collections import deque

_KEPT = 64  # calls of a size; older ones say little about the load of now
_FRESH_S = 30.0  # and so do those of a while ago
_ENOUGH = 5  # calls, before anything is said


class LatencyEstimator:
    """The calls of the last half minute. Sizes are told apart by powers of two: 1, 2, 3 to 4, 5 to 8, and so on."""

    def __init__(self) -> None:
        self._calls: dict[int, deque[tuple[float, float]]] = {}  # by size: when each ended, and what it took
        self.last_s = -math.inf  # when the last call ended, on the clock of time.monotonic()

    def record(self, size: int, took_s: float, whole: bool = True) -> None:
        """A call of `size` items took this long. whole: false when it was given up, and would have taken longer."""
        known_s = self.p90_s(size)
        if not whole and known_s is not None and took_s <= known_s:
            return  # says nothing that was not known
        self.last_s = time.monotonic()
        self._calls.setdefault(_rung(size), deque(maxlen=_KEPT)).append((self.last_s, took_s))

    def p90_s(self, size: int) -> float | None:
        """What nine in ten calls of about this size keep within, seconds; None while too few are known."""
        times = self._near(size)
        return sorted(times)[math.ceil(0.9 * len(times)) - 1] if times else None

    def mean_s(self, size: int) -> float | None:
        """What a call of about this size takes on average, seconds; None while too few are known."""
        times = self._near(size)
        return sum(times) / len(times) if times else None

    def _near(self, size: int) -> list[float]:
        """Seconds of the calls nearest in size of which there are enough, smaller ones first: no guess is too high."""
        since = time.monotonic() - _FRESH_S
        wanted = _rung(size)
        for rung in sorted(self._calls, key=lambda rung: (rung > wanted, abs(rung - wanted))):
            calls = self._calls[rung]
            while calls and calls[0][0] < since:
                calls.popleft()
            if len(calls) >= _ENOUGH:
                return [took_s for _, took_s in calls]
        return []


def _rung(size: int) -> int:
    return (size - 1).bit_length()
