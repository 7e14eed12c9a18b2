"""Running estimates of a stage's call latency by batch size."""

import math
import time
from collections import deque

_MAX_CALLS = 64  # of a size; older calls are not representative of the current load
_MAX_AGE_S = 30.0
_MIN_CALLS = 5  # before there is an estimate


class LatencyEstimator:
    """Latencies of the calls of the last half minute, by powers of two of the size: 1, 2, 3 to 4, 5 to 8, and so on."""

    def __init__(self) -> None:
        self._calls: dict[int, deque[tuple[float, float]]] = {}  # by size: end time and duration
        self.last_s = -math.inf  # end of the last call, on the clock of time.monotonic()

    def record(self, size: int, took_s: float, completed: bool = True) -> None:
        """Record the duration of a call with `size` items; a cancelled call counts if it took longer than estimated."""
        known_s = self.p90_s(size)
        if not completed and known_s is not None and took_s <= known_s:
            return  # no information
        self.last_s = time.monotonic()
        self._calls.setdefault(_size_class(size), deque(maxlen=_MAX_CALLS)).append((self.last_s, took_s))

    def p90_s(self, size: int) -> float | None:
        """Return the 90th percentile of calls of about this size, seconds; None while too few are known."""
        times = self._nearest(size)
        return sorted(times)[math.ceil(0.9 * len(times)) - 1] if times else None

    def mean_s(self, size: int) -> float | None:
        """Return the mean duration of calls of about this size, seconds; None while too few are known."""
        times = self._nearest(size)
        return sum(times) / len(times) if times else None

    def _nearest(self, size: int) -> list[float]:
        """Return the durations of the nearest size with enough calls, smaller sizes first so as not to overestimate."""
        since = time.monotonic() - _MAX_AGE_S
        wanted = _size_class(size)
        for known in sorted(self._calls, key=lambda known: (known > wanted, abs(known - wanted))):
            calls = self._calls[known]
            while calls and calls[0][0] < since:
                calls.popleft()
            if len(calls) >= _MIN_CALLS:
                return [took_s for _, took_s in calls]
        return []


def _size_class(size: int) -> int:
    return (size - 1).bit_length()
