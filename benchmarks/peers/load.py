"""Requests at a rate that does not wait for answers, and as many as a server takes."""

import asyncio
import itertools
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from benchmarks.storm.figures import quantile

_REFUSED_S = 0.1  # a client that was refused comes again after so long


@dataclass(frozen=True, slots=True)
class Point:
    """A rate that was offered. Latencies count from when a request was due, whenever it was sent.

    in_time: answers a second within the limit. kept: their share of all that came. failed: refused, broken, or not
    answered before it was given up.
    """

    offered: float
    answered: float
    in_time: float
    kept: float
    p50_ms: float
    p99_ms: float
    failed: int


@dataclass(frozen=True, slots=True)
class Saturated:
    """repeats: answers a second. refused: in all of them, and while warming."""

    repeats: list[float]
    refused: int


class Load:
    """Sends requests, bodies with their headers, to one address.

    limit_s: what counts as in time; after four times that a request is given up.
    """

    def __init__(self, url: str, requests: Sequence[tuple[bytes, Mapping[str, str]]], limit_s: float) -> None:
        self._url, self._limit_s = url, limit_s
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
        """Poisson arrivals at a rate, the same for the same seed."""
        dice, due, waiting = random.Random(seed), 0.0, set[asyncio.Task[None]]()
        took: list[float] = []
        failed = 0

        async def one(due_s: float) -> None:
            nonlocal failed
            if await self._asked(session, 4 * self._limit_s):
                took.append(time.monotonic() - due_s)
            else:
                failed += 1

        async with self._session() as session:
            began = time.monotonic()
            while due < seconds:
                due += dice.expovariate(rate)
                await asyncio.sleep(max(0.0, began + due - time.monotonic()))
                task = asyncio.create_task(one(began + due))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
            await asyncio.gather(*waiting)
        took.sort()
        p50_s, p99_s = (quantile(took, part) or float("nan") for part in (0.5, 0.99))
        in_time = sum(each <= self._limit_s for each in took)
        return Point(
            offered=rate,
            answered=len(took) / seconds,
            in_time=in_time / seconds,
            kept=in_time / max(1, len(took) + failed),
            p50_ms=1000 * p50_s,
            p99_ms=1000 * p99_s,
            failed=failed,
        )

    async def _asked(self, session: aiohttp.ClientSession, patience_s: float) -> bool:
        body, headers = next(self._requests)
        try:
            async with session.post(
                self._url, data=body, headers=headers, timeout=aiohttp.ClientTimeout(total=patience_s)
            ) as reply:
                await reply.read()
                return reply.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


def _rate(ends: Sequence[float], start: float, end: float) -> float:
    """Answers a second, from the last before the start to the last before the end: no part of an answer is lost."""
    before = max((each for each in ends if each <= start), default=start)
    within = [each for each in ends if start < each <= end]
    return len(within) / (max(within) - before) if within else 0.0
