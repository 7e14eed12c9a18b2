"""Admission control: limits on concurrent requests and on the bytes of media that they hold."""

import time
from collections import deque

from roadwork_serve.errors import Overloaded

_WINDOW = 64  # requests that ended last
_WINDOW_S = 10.0
_MIN_WAIT_S, _MAX_WAIT_S = 1.0, 60.0


class Admission:
    """Counts requests in flight and the bytes they hold.

    Args:
        max_requests: Limit on requests in flight.
        max_bytes: Limit on the bytes of media of all requests in flight.
    """

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.in_flight = 0
        self.reserved_bytes = 0
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._ended: deque[float] = deque(maxlen=_WINDOW)

    def enter(self) -> "Permit":
        """Admit a request until its permit is released. Raises Overloaded."""
        if self.in_flight >= self._max_requests:
            wait_s = self.drain_s()
            raise Overloaded(f"{self._max_requests} requests are in flight; come back in {wait_s:.0f} s", wait_s)
        self.in_flight += 1
        return Permit(self)

    def release(self, size: int) -> None:
        """End a request that has reserved so many bytes."""
        self.in_flight -= 1
        self.reserved_bytes -= size
        self._ended.append(time.monotonic())

    def reserve_bytes(self, size: int) -> None:
        """Reserve more bytes. Raises Overloaded if that exceeds the limit."""
        if self.reserved_bytes + size > self._max_bytes:
            wait_s = self.drain_s()
            raise Overloaded(
                f"requests in flight hold {self.reserved_bytes:,} of {self._max_bytes:,} bytes of media; come back in "
                f"{wait_s:.0f} s",
                wait_s,
            )
        self.reserved_bytes += size

    def drain_s(self) -> float:
        """Return the estimated time until the requests in flight have ended, from the rate of the last ten seconds.

        It is between one second and one minute.
        """
        now = time.monotonic()
        while self._ended and self._ended[0] < now - _WINDOW_S:
            self._ended.popleft()
        if not self._ended or now == self._ended[0]:
            return _MIN_WAIT_S
        return min(_MAX_WAIT_S, max(_MIN_WAIT_S, self.in_flight * (now - self._ended[0]) / len(self._ended)))


class Permit:
    """An admitted request and the bytes it has reserved."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.bytes = 0

    def reserve_bytes(self, size: int) -> None:
        """Reserve more bytes until the request ends. Raises Overloaded if all requests together exceed the limit."""
        self._admission.reserve_bytes(size)
        self.bytes += size

    def release(self) -> None:
        """End the request."""
        self._admission.release(self.bytes)
