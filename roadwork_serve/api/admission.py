"""How much is let in at once: requests, and the bytes they hold."""

import time
from collections import deque

from roadwork_serve.errors import Overloaded

_KEPT = 64  # requests that left last
_FRESH_S = 10.0
_LEAST_S, _LONGEST_S = 1.0, 60.0


class Admission:
    """places: for requests. max_bytes: of media in all of them."""

    def __init__(self, places: int, max_bytes: int) -> None:
        self.admitted = 0
        self.held_bytes = 0
        self._places = places
        self._max_bytes = max_bytes
        self._left: deque[float] = deque(maxlen=_KEPT)

    def enter(self) -> "Permit":
        """Hold one of the places until it is left. Raises Overloaded."""
        if self.admitted >= self._places:
            wait_s = self.drain_s()
            raise Overloaded(f"{self._places} requests are in work; come back in {wait_s:.0f} s", wait_s)
        self.admitted += 1
        return Permit(self)

    def leave(self, size: int) -> None:
        """Give back a place and the bytes it held."""
        self.admitted -= 1
        self.held_bytes -= size
        self._left.append(time.monotonic())

    def hold(self, size: int) -> None:
        """Count so many bytes more. Raises Overloaded when that are too many."""
        if self.held_bytes + size > self._max_bytes:
            wait_s = self.drain_s()
            raise Overloaded(
                f"requests in work hold {self.held_bytes:,} of {self._max_bytes:,} bytes of media; come back in "
                f"{wait_s:.0f} s",
                wait_s,
            )
        self.held_bytes += size

    def drain_s(self) -> float:
        """How long what is in work takes to leave, at the pace of the last ten seconds; at least one second."""
        now = time.monotonic()
        while self._left and self._left[0] < now - _FRESH_S:
            self._left.popleft()
        if not self._left or now == self._left[0]:
            return _LEAST_S
        return min(_LONGEST_S, max(_LEAST_S, self.admitted * (now - self._left[0]) / len(self._left)))


class Permit:
    """What a request in work holds: one place, and the bytes it has sent."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.bytes = 0

    def take(self, size: int) -> None:
        """Hold so many bytes more until the request is done. Raises Overloaded when all together hold too many."""
        self._admission.hold(size)
        self.bytes += size

    def leave(self) -> None:
        """Give it back."""
        self._admission.leave(self.bytes)
