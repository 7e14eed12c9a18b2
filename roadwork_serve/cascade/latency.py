"""Running estimates of a stage's call latency by batch size."""

import math
import time
from bisect import bisect_left, insort
from collections import deque

_MAX_CALLS = 64  # of a size; older calls are not representative of the current load
_MAX_AGE_S = 30.0
_MIN_CALLS = 5  # before there is an estimate


class LatencyEstimator:
    """Latencies of the calls of the last half minute, by powers of two of the size: 1, 2, 3 to 4, 5 to 8, and so on."""

    def __init__(self) -> None:
        self._calls: dict[int, _Calls] = {}  # by size class
        self.last_s = -math.inf  # end of the last call, on the clock of time.monotonic()

    def record(self, size: int, took_s: float, completed: bool = True) -> None:
        """Record the duration of a call with `size` items; a cancelled call counts if it took longer than estimated."""
        known_s = None if completed else self.p90_s(size)
        if known_s is not None and took_s <= known_s:
            return  # no information
        self.last_s = time.monotonic()
        self._calls.setdefault(_size_class(size), _Calls()).add(self.last_s, took_s)

    def p90_s(self, size: int) -> float | None:
        """Return the 90th percentile of calls of about this size, seconds; None while too few are known.

        They are those of the nearest size with enough calls, smaller sizes first so as not to overestimate.
        """
        since, wanted = time.monotonic() - _MAX_AGE_S, _size_class(size)
        own = self._calls.get(wanted)
        if own and (p90_s := own.p90_s(since)) is not None:
            return p90_s
        others = sorted(self._calls, key=lambda known: (known > wanted, abs(known - wanted)))
        return next((p90_s for known in others if (p90_s := self._calls[known].p90_s(since)) is not None), None)


class _Calls:
    """The last calls of a size. An estimate is due several times a request, so durations are kept in order."""

    def __init__(self) -> None:
        self._calls: deque[tuple[float, float]] = deque()  # end and duration
        self._ordered: list[float] = []  # durations

    def add(self, end_s: float, took_s: float) -> None:
        """Add a call, in place of the oldest if there are many."""
        if len(self._calls) == _MAX_CALLS:
            self._drop()
        self._calls.append((end_s, took_s))
        insort(self._ordered, took_s)

    def p90_s(self, since_s: float) -> float | None:
        """Return the 90th percentile of the calls that ended since then; None if they are too few."""
        while self._calls and self._calls[0][0] < since_s:
            self._drop()
        count = len(self._ordered)
        return self._ordered[math.ceil(0.9 * count) - 1] if count >= _MIN_CALLS else None

    def _drop(self) -> None:
        _, took_s = self._calls.popleft()
        del self._ordered[bisect_left(self._ordered, took_s)]


def _size_class(size: int) -> int:
    return (size - 1).bit_length()
