"""Limits on request bodies while they arrive: a least rate, and a number at a time for each caller and for all."""

import asyncio
import math
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from roadwork_serve.client_network import client_network
from roadwork_serve.errors import Overloaded, RoadworkError, SlowUpload


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits on the bodies that one replica receives."""

    #: Largest number of bodies of all callers.
    at_once: int = 256
    #: Largest number of bodies of one caller: a key, or an address where there are no keys.
    per_caller: int = 128
    #: Least bytes a second.
    bytes_per_s: float = 1024
    #: Time without a byte after which a body is ended, however fast it was before, in seconds.
    grace_s: float = 5
    #: The same where there is no room: then a slower body gives way to a new one.
    crowded_grace_s: float = 1
    #: Time for a new body where there is no room and none gives way. Nearly every photo arrives in this time.
    crowded_s: float = 0.25


@dataclass(slots=True, eq=False)
class IncomingBody:
    """A body that is arriving. Times are of the event loop's clock."""

    caller: str
    limits: BodyLimits
    began_s: float
    #: The time by which more must have arrived.
    latest_s: float
    received: int = 0
    #: True while there is no room: the body must be complete in a moment.
    crowded: bool = False
    #: The error that ends it early, if another took its place.
    ended_by: RoadworkError | None = None
    timer: asyncio.Timeout | None = field(default=None, repr=False)

    def arrive(self, size: int, now_s: float) -> None:
        """Count bytes. They buy time at the least rate, up to the grace."""
        self.received += size
        if not self.crowded:
            self.latest_s = min(now_s + self.limits.grace_s, self.latest_s + size / self.limits.bytes_per_s)

    def rate(self, now_s: float) -> float:
        """Return the mean bytes a second so far."""
        return self.received / max(1e-9, now_s - self.began_s)

    def is_slow(self, now_s: float) -> bool:
        """Return whether it may be ended to make room."""
        old = now_s - self.began_s > self.limits.crowded_grace_s
        return old and not self.crowded and self.rate(now_s) < self.limits.bytes_per_s

    def error(self) -> RoadworkError:
        """Return the error of a body that is ended."""
        if self.ended_by is not None:
            return self.ended_by
        if self.crowded:
            limits = self.limits
            return Overloaded(
                f"{limits.per_caller} bodies of this caller or {limits.at_once} in all are arriving, and this one was "
                f"not complete in {limits.crowded_s:g} s; come back in {limits.crowded_grace_s:g} s",
                limits.crowded_grace_s,
            )
        return _too_slow(self)


class IncomingBodies:
    """The bodies that are arriving, for all requests of a replica."""

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._all: dict[str, set[IncomingBody]] = {}  # by caller

    def __len__(self) -> int:
        return sum(map(len, self._all.values()))

    def begin(self, caller: str, now_s: float) -> IncomingBody:
        """Return a body that begins to arrive. If there is no room, the slowest body gives way, or this one hurries."""
        body = IncomingBody(caller, self._limits, now_s, now_s + self._limits.grace_s)
        own = self._all.get(caller, set())
        if len(own) >= self._limits.per_caller:
            body.crowded = not self._make_room(own, now_s)
        elif len(self) >= self._limits.at_once:
            body.crowded = not self._make_room(set().union(*self._all.values()), now_s)
        if body.crowded:
            body.latest_s = now_s + self._limits.crowded_s
        self._all.setdefault(caller, set()).add(body)  # making room may have removed the set
        return body

    def end(self, body: IncomingBody) -> None:
        """Forget a body that is complete or given up."""
        if own := self._all.get(body.caller):
            own.discard(body)
            if not own:
                del self._all[body.caller]

    def _make_room(self, bodies: set[IncomingBody], now_s: float) -> bool:
        """End the slowest of the bodies, if one is slow. Returns whether there was one."""
        slow = [body for body in bodies if body.is_slow(now_s)]
        if not slow:
            return False
        slowest = min(slow, key=lambda body: body.rate(now_s))
        # Not SlowUpload: on a busy machine it may be this server that was slow to read.
        grace_s = self._limits.crowded_grace_s
        slowest.ended_by = Overloaded(
            f"others need the place of this body, of which {slowest.received:,} bytes have arrived; come back in "
            f"{grace_s:g} s",
            grace_s,
        )
        self.end(slowest)
        if slowest.timer is not None and not slowest.timer.expired():
            slowest.timer.reschedule(now_s)
        return True


class LimitBodies:
    """Middleware that enforces the limits when a route reads the body. The error is raised in the route.

    Args:
        app: The application.
        limits: The limits.
    """

    def __init__(self, app: ASGIApp, limits: BodyLimits) -> None:
        self._app = app
        self._bodies = IncomingBodies(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a limited body."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        body: IncomingBody | None = None
        complete = False
        loop = asyncio.get_running_loop()

        async def limited() -> Message:
            nonlocal body, complete
            if complete:  # what comes now is the end of the connection
                return await receive()
            if body is None:
                body = self._bodies.begin(_caller(scope), loop.time())
            message = await _receive_in_time(receive, body)
            body.arrive(len(message.get("body", b"")), loop.time())
            if message["type"] != "http.request" or not message.get("more_body", False):
                complete = True
                self._bodies.end(body)
            return message

        try:
            await self._app(scope, limited, send)
        finally:
            if body is not None:
                self._bodies.end(body)


async def _receive_in_time(receive: Receive, body: IncomingBody) -> Message:
    if body.ended_by is not None:
        raise body.ended_by
    try:
        async with asyncio.timeout_at(body.latest_s) as body.timer:
            return await receive()
    except TimeoutError:
        raise body.error() from None
    finally:
        body.timer = None


def _caller(scope: Scope) -> str:
    """Return the name of the caller's key, or else the network of its address."""
    state: dict[str, Any] = scope.get("state", {})
    if (name := state.get("caller")) is not None:
        return f"key {name}"
    return client_network((scope.get("client") or ("",))[0])


def _too_slow(body: IncomingBody) -> SlowUpload:
    rate = math.ceil(body.limits.bytes_per_s)
    return SlowUpload(
        f"of the body {body.received:,} bytes have arrived, at less than {rate:,} bytes a second; send a smaller file, "
        "or over a faster connection"
    )
