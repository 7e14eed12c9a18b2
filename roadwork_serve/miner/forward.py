"""One answer for one picture, however many validators send it within a minute."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from roadwork_serve.errors import DeadlineExceeded, StageLost
from roadwork_serve.miner.blacklist import PrioritySemaphore
from roadwork_serve.schema import Verdict

_KEPT_S = 60.0
_MOST = 4096
_RESERVE_S = 0.25  # for what a cascade could say by its deadline to be kept, and to come back
_MORE_S = 0.5  # who has so much more time than the one who began does not take an answer cut short


class Cascade(Protocol):
    """What says whether a picture shows road work."""

    async def ready(self) -> None:
        """Returns where it is there to be asked. Raises any error of the tree where it is not."""
        ...

    async def classify(self, data: bytes, deadline_ms: int, request_id: str, key: str) -> Verdict:
        """The verdict on an encoded picture. Raises any error of the tree."""
        ...


@dataclass(frozen=True, slots=True)
class _Flight:
    """A look at a picture. until_s: kept so long. deadline_s: by which whoever began it wants to know."""

    task: asyncio.Task[Verdict]
    until_s: float
    deadline_s: float


class ForwardCache:
    """Verdicts by the hash of the picture. Who asks while the first one is at it waits for the same verdict.

    turns: what a look waits for; one that is known waits for none.
    """

    def __init__(self, cascade: Cascade, turns: PrioritySemaphore, clock: Callable[[], float] = time.monotonic) -> None:
        self._cascade = cascade
        self._turns = turns
        self._clock = clock
        self._found: dict[str, _Flight] = {}  # oldest first

    async def of(
        self, data: bytes, deadline_s: float, request_id: str, key: str, stake: float = 0.0
    ) -> tuple[Verdict, bool]:
        """The verdict, and whether it was known or on its way. deadline_s: on the clock of `time.monotonic()`.

        Raises any error of the tree, Refused when too many wait, and TimeoutError when the deadline passes. An error is
        told to all who wait, and neither it nor a verdict that was cut short is kept: the next one tries again, and so
        does who joined somebody with less time than himself.
        """
        name = hashlib.sha256(data).hexdigest()
        async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
            while True:
                self._forget()
                flight = self._found.get(name)
                known = flight is not None
                if flight is None:
                    flight = self._begin(name, data, deadline_s, request_id, key, stake)
                hasty = deadline_s > flight.deadline_s + _MORE_S
                try:
                    verdict = await asyncio.shield(flight.task)
                except DeadlineExceeded:
                    if not hasty:
                        raise
                except asyncio.CancelledError:
                    if flight.task.cancelled() and not _leaving():
                        raise StageLost("the look at this picture was given up") from None
                    raise
                else:
                    if not (hasty and verdict.exit.reason == "deadline"):
                        return verdict, known

    def _begin(self, name: str, data: bytes, deadline_s: float, request_id: str, key: str, stake: float) -> _Flight:
        async def look() -> Verdict:
            async with self._turns.turn(stake):
                left_s = deadline_s - _RESERVE_S - time.monotonic()
                return await self._cascade.classify(data, max(1, round(1000 * left_s)), request_id, key)

        task = asyncio.create_task(look(), name="classify")
        task.add_done_callback(lambda done: self._settle(name, done))
        flight = self._found[name] = _Flight(task, self._clock() + _KEPT_S, deadline_s)
        return flight

    async def aclose(self) -> None:
        """Give up what is in work."""
        tasks = [flight.task for flight in self._found.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _settle(self, name: str, task: asyncio.Task[Verdict]) -> None:
        short = task.cancelled() or task.exception() is not None or _cut_short(task.result())
        if short and (flight := self._found.get(name)) and flight.task is task:
            del self._found[name]

    def _forget(self) -> None:
        now = self._clock()
        for name, flight in list(self._found.items()):
            if flight.until_s > now and len(self._found) <= _MOST:
                return
            if flight.task.done():
                del self._found[name]


def _cut_short(verdict: Verdict) -> bool:
    return verdict.degraded or verdict.exit.reason == "deadline"


def _leaving() -> bool:
    """Whether it is the caller who is cancelled, not what he waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
