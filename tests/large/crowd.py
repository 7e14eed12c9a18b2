"""Clients that send requests in a loop, and a record of the outcome of each."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import httpx

from benchmarks.chaos.outcomes import Reply, parse_reply
from benchmarks.chaos.plan import File
from roadwork_serve.schema import Verdict

Outcome = Literal["answered", "refused", "error", "silence", "wrong"]
_PAUSE_S = 0.05  # pause of a client between two requests


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was sent once and followed to its end. Seconds on the monotonic clock.

    outcome: answered with its own verdict, refused with a problem document, failed with an error of Serve's or a
    broken connection, left without a response, or wrong without an excuse. detail: explains the outcome.
    """

    name: str
    url: str
    sent_s: float
    ended_s: float
    outcome: Outcome
    detail: str
    verdict: Verdict | None = None


class Crowd:
    """Clients under load. asked: the requests that have ended. sent: number of requests. file: content of each."""

    def __init__(self, file: File, deadline_s: float, grace_s: float) -> None:
        self._file, self._deadline_s, self._grace_s = file, deadline_s, grace_s
        self._numbers = itertools.count()
        self.sent = 0
        self.asked: list[Asked] = []

    @asynccontextmanager
    async def asking(self, urls: Sequence[str], each: int) -> AsyncIterator[None]:
        """Run `each` clients per server during the block, then wait for their last requests."""
        stop = asyncio.Event()
        async with httpx.AsyncClient(timeout=self._deadline_s + self._grace_s) as client, asyncio.TaskGroup() as group:
            for url in urls:
                for _ in range(each):
                    group.create_task(self._ask_on(client, url, stop))
            try:
                yield
            finally:
                stop.set()

    async def until(self, more: int, within_s: float = 60.0) -> None:
        """Wait until this many further requests have been answered."""
        goal = self.count("answered") + more
        async with asyncio.timeout(within_s):
            while self.count("answered") < goal:  # noqa: ASYNC110 - what grows it are the clients themselves
                await asyncio.sleep(0.02)

    def count(self, outcome: Outcome) -> int:
        """Return the number of requests with this outcome."""
        return sum(asked.outcome == outcome for asked in self.asked)

    def account(self) -> Counter[str]:
        """Return the number of requests by outcome and detail."""
        return Counter(f"{asked.outcome}: {asked.detail}" for asked in self.asked)

    async def _ask_on(self, client: httpx.AsyncClient, url: str, stop: asyncio.Event) -> None:
        while not stop.is_set():
            name = f"crowd-{next(self._numbers)}"
            self.sent += 1
            sent_s = time.monotonic()
            outcome, detail, verdict = await self._ask(client, url, name)
            self.asked.append(Asked(name, url, sent_s, time.monotonic(), outcome, detail, verdict))
            await asyncio.sleep(_PAUSE_S)

    async def _ask(self, client: httpx.AsyncClient, url: str, name: str) -> tuple[Outcome, str, Verdict | None]:
        try:
            response = await client.post(
                f"{url}/v1/classify",
                params={"deadline_ms": round(1000 * self._deadline_s)},
                content=self._file.data,
                headers={"content-type": self._file.mime, "x-request-id": name},
            )
        except httpx.TimeoutException:
            return "silence", "nothing came", None
        except httpx.TransportError as error:
            return "error", type(error).__name__, None
        kind = response.headers.get("content-type", "").partition(";")[0]
        parsed = parse_reply(Reply(response.status_code, kind, response.content), self._file, name)
        match parsed.outcome:
            case "answered" | "refused":
                return parsed.outcome, parsed.detail, parsed.verdict
            case None:
                return "error", parsed.detail, None
            case _:
                return "wrong", parsed.detail, None
