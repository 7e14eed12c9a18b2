"""Admission control: limits on concurrent requests and on the bytes of media that they hold."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from roadwork_serve.errors import Overloaded

_WINDOW = 64  # requests that ended last
_WINDOW_S = 10.0
_MIN_WAIT_S, _MAX_WAIT_S = 1.0, 60.0


class Admission:
    """Counts requests in flight and the bytes they hold.

    A request reserves bytes while its body arrives, and enters once the body is complete: a client that sends slowly
    keeps nobody out.

    Args:
        max_requests: Limit on requests in flight.
        max_bytes: Limit on the bytes of media of all requests, in flight or arriving.
    """

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.in_flight = 0
        self.reserved_bytes = 0
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._ended: deque[float] = deque(maxlen=_WINDOW)

    def check(self) -> None:
        """Raise Overloaded if no request can enter now."""
        if self.in_flight >= self._max_requests:
            wait_s = self.drain_s()
            raise Overloaded(f"{self._max_requests} requests are in flight; come back in {wait_s:.0f} s", wait_s)

    def enter(self) -> None:
        """Admit a request until `leave`. Raises Overloaded."""
        self.check()
        self.in_flight += 1

    def leave(self) -> None:
        """End an admitted request."""
        self.in_flight -= 1
        self._ended.append(time.monotonic())

    @contextmanager
    def reservation(self) -> Iterator["ByteReservation"]:
        """Yield a reservation of bytes, which ends with the block."""
        reservation = ByteReservation(self)
        try:
            yield reservation
        finally:
            self.reserved_bytes -= reservation.bytes

    def reserve_bytes(self, size: int) -> None:
        """Reserve more bytes. Raises Overloaded if that exceeds the limit."""
        if self.reserved_bytes + size > self._max_bytes:
            wait_s = self.drain_s()
            raise Overloaded(
                f"requests hold {self.reserved_bytes:,} of {self._max_bytes:,} bytes of media; come back in "
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


class ByteReservation:
    """The bytes that a request has reserved."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.bytes = 0

    def reserve_bytes(self, size: int) -> None:
        """Reserve more bytes until the request ends. Raises Overloaded if all requests together exceed the limit."""
        self._admission.reserve_bytes(size)
        self.bytes += size
