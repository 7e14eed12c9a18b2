"""Requests at a rate that does not wait for answers, and as many as a server takes."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from benchmarks.chaos.figures import quantile

_REFUSED_S = 0.1  # a client that was refused comes again after so long


@dataclass(frozen=True, slots=True)
class Point:
    """A rate that was offered. Latencies count from when a request was due, whenever it was sent.

    sent: requests. answered, in_time: a second, all and within the limit, of those answered while requests still came
    and the first limit had passed. kept: the share of all that were sent which was answered in time. p50_ms, p99_ms: of
    all answers, None of none. failed: refused, broken, cut short, or not answered before it was given up.
    """

    offered: float
    sent: int
    answered: float
    in_time: float
    kept: float
    p50_ms: float | None
    p99_ms: float | None
    failed: int


@dataclass(frozen=True, slots=True)
class Saturated:
    """repeats: answers a second. refused: in all of them, and while warming."""

    repeats: list[float]
    refused: int


class Load:
    """Sends requests, bodies with their headers, to one address.

    limit_s: what counts as in time; after four times that a request is given up. whole: of the body of an answer,
    whether it counts as one.
    """

    def __init__(
        self,
        url: str,
        requests: Sequence[tuple[bytes, Mapping[str, str]]],
        limit_s: float,
        whole: Callable[[bytes], bool] = lambda _: True,
    ) -> None:
        self._url, self._limit_s, self._whole = url, limit_s, whole
        self._requests = itertools.cycle(requests)

    async def saturated(self, clients: int, seconds: float, repeats: int, warm_s: float) -> Saturated:
        """Clients that each send the next request when they have an answer, or a while after they were refused.

        They begin warm_s before the first repeat and go on until the last has ended.
        """
        ends: list[float] = []
        refused = 0
        async with self._session() as session:

            async def ask(end: float) -> None:
                nonlocal refused
                while time.monotonic() < end:
                    if await self._asked(session, 600.0):
                        ends.append(time.monotonic())
                    else:
                        refused += 1
                        await asyncio.sleep(_REFUSED_S)

            began = time.monotonic() + warm_s
            await asyncio.gather(*(ask(began + repeats * seconds) for _ in range(clients)))
        starts = [began + repeat * seconds for repeat in range(repeats)]
        return Saturated([_rate(ends, start, start + seconds) for start in starts], refused)

    async def offered(self, rate: float, seconds: float, seed: int) -> Point:
        """Poisson arrivals, as many as the rate says, the same for the same seed.

        seconds: that they come for, more than the limit. Raises ValueError for less.
        """
        if seconds <= self._limit_s:
            raise ValueError(f"{seconds:g} s are too short for a limit of {self._limit_s:g} s; ask for more")
        dice, sent = random.Random(seed), max(1, round(rate * seconds))
        waiting: list[asyncio.Task[None]] = []
        done: list[tuple[float, float]] = []  # when, and what it took

        async def one(due_s: float) -> None:
            if await self._asked(session, 4 * self._limit_s):
                done.append((time.monotonic() - began, time.monotonic() - due_s))

        async with self._session() as session:
            began = time.monotonic()
            # Times of a Poisson process, given how many there are.
            for due in sorted(dice.uniform(0.0, seconds) for _ in range(sent)):
                await asyncio.sleep(max(0.0, began + due - time.monotonic()))
                waiting.append(asyncio.create_task(one(began + due)))
            await asyncio.gather(*waiting)
        took = sorted(each for _, each in done)
        steady = [each for at, each in done if self._limit_s <= at < seconds]
        return Point(
            offered=rate,
            sent=sent,
            answered=len(steady) / (seconds - self._limit_s),
            in_time=self._in_time(steady) / (seconds - self._limit_s),
            kept=self._in_time(took) / sent,
            p50_ms=quantile([1000 * each for each in took], 0.5),
            p99_ms=quantile([1000 * each for each in took], 0.99),
            failed=sent - len(done),
        )

    def _in_time(self, took: Iterable[float]) -> int:
        return sum(each <= self._limit_s for each in took)

    async def _asked(self, session: aiohttp.ClientSession, patience_s: float) -> bool:
        body, headers = next(self._requests)
        try:
            async with session.post(
                self._url, data=body, headers=headers, timeout=aiohttp.ClientTimeout(total=patience_s)
            ) as reply:
                answer = await reply.read()
                return reply.status == 200 and self._whole(answer)
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _session(self) -> aiohttp.ClientSession:
        # A connection a request, as of clients that know nothing of each other: whoever listens in several processes
        # gets them spread anew each time.
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))


def _rate(ends: Sequence[float], start: float, end: float) -> float:
    """Answers a second, from the last before the start to the last before the end: no part of an answer is lost."""
    before = max((each for each in ends if each <= start), default=start)
    within = [each for each in ends if start < each <= end]
    return len(within) / (max(within) - before) if within else 0.0
