"""Open-loop load at a given rate, and closed-loop load that saturates a server."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from benchmarks.chaos.figures import quantile

_REFUSED_S = 0.1  # delay of a client after a rejection


@dataclass(frozen=True, slots=True)
class Point:
    """The figures at one offered rate. Latency is counted from the time a request was due."""

    offered_per_s: float
    #: Number of requests.
    sent: int
    #: Answers while requests still came, after the first limit had passed.
    answered_per_s: float
    #: Those of them within the limit.
    in_time_per_s: float
    #: Share of all requests that were answered in time.
    in_time_share: float
    #: Over all answers; None if there are none.
    p50_ms: float | None
    p99_ms: float | None
    #: Rejected, broken, incomplete or abandoned requests.
    failed: int


@dataclass(frozen=True, slots=True)
class Saturated:
    """The figures at saturation."""

    #: Answers per second, by repeat.
    throughputs: list[float]
    #: Failed requests in all repeats and the warm-up.
    refused: int


class Load:
    """Sends requests to one URL.

    Args:
        url: for POST requests.
        requests: bodies with their headers, sent in a cycle.
        limit_s: latency limit; a request is abandoned after four times that.
        is_complete: returns whether the body of an answer counts.
    """

    def __init__(
        self,
        url: str,
        requests: Sequence[tuple[bytes, Mapping[str, str]]],
        limit_s: float,
        is_complete: Callable[[bytes], bool] = lambda _: True,
    ) -> None:
        self._url, self._limit_s, self._is_complete = url, limit_s, is_complete
        self._requests = itertools.cycle(requests)

    async def closed_loop(self, clients: int, seconds: float, repeats: int, warm_s: float) -> Saturated:
        """Run clients that each send the next request after an answer, or a while after a rejection.

        They begin `warm_s` before the first repeat and continue until the last has ended.
        """
        ends: list[float] = []
        refused = 0
        async with self._session() as session:

            async def run_client(end: float) -> None:
                nonlocal refused
                while time.monotonic() < end:
                    if await self._request(session, 600.0):
                        ends.append(time.monotonic())
                    else:
                        refused += 1
                        await asyncio.sleep(_REFUSED_S)

            began = time.monotonic() + warm_s
            await asyncio.gather(*(run_client(began + repeats * seconds) for _ in range(clients)))
        starts = [began + repeat * seconds for repeat in range(repeats)]
        return Saturated([_rate(ends, start, start + seconds) for start in starts], refused)

    async def open_loop(self, rate: float, seconds: float, seed: int) -> Point:
        """Send Poisson arrivals at this rate, the same for the same seed.

        They come for this many seconds, which must be more than the limit; otherwise raises ValueError.
        """
        if seconds <= self._limit_s:
            raise ValueError(f"{seconds:g} s are too short for a limit of {self._limit_s:g} s; use more")
        rng, sent = random.Random(seed), max(1, round(rate * seconds))
        tasks: list[asyncio.Task[None]] = []
        answers: list[tuple[float, float]] = []  # time of the answer, latency

        async def send_one(due_s: float) -> None:
            if await self._request(session, 4 * self._limit_s):
                answers.append((time.monotonic() - began, time.monotonic() - due_s))

        async with self._session() as session:
            began = time.monotonic()
            # A Poisson process, conditional on the number of arrivals.
            for due in sorted(rng.uniform(0.0, seconds) for _ in range(sent)):
                await asyncio.sleep(max(0.0, began + due - time.monotonic()))
                tasks.append(asyncio.create_task(send_one(began + due)))
            await asyncio.gather(*tasks)
        latencies = sorted(each for _, each in answers)
        steady = [each for at, each in answers if self._limit_s <= at < seconds]
        return Point(
            offered_per_s=rate,
            sent=sent,
            answered_per_s=len(steady) / (seconds - self._limit_s),
            in_time_per_s=self._count_in_time(steady) / (seconds - self._limit_s),
            in_time_share=self._count_in_time(latencies) / sent,
            p50_ms=quantile([1000 * each for each in latencies], 0.5),
            p99_ms=quantile([1000 * each for each in latencies], 0.99),
            failed=sent - len(answers),
        )

    def _count_in_time(self, latencies: Iterable[float]) -> int:
        return sum(each <= self._limit_s for each in latencies)

    async def _request(self, session: aiohttp.ClientSession, timeout_s: float) -> bool:
        body, headers = next(self._requests)
        try:
            async with session.post(
                self._url, data=body, headers=headers, timeout=aiohttp.ClientTimeout(total=timeout_s)
            ) as reply:
                answer = await reply.read()
                return reply.status == 200 and self._is_complete(answer)
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _session(self) -> aiohttp.ClientSession:
        # One connection per request, as from independent clients. Servers that listen in several processes then
        # distribute requests among them.
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))


def _rate(ends: Sequence[float], start: float, end: float) -> float:
    """Return the answers per second, between the last answers before the start and before the end."""
    before = max((each for each in ends if each <= start), default=start)
    within = [each for each in ends if start < each <= end]
    return len(within) / (max(within) - before) if within else 0.0
