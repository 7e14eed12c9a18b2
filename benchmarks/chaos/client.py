"""The load generator: requests that are followed to their end, one asyncio process for all."""

import asyncio
import itertools
from collections.abc import Callable

import aiohttp

from benchmarks.chaos.clock import Clock
from benchmarks.chaos.outcomes import Outcome, Reading, Record, Reply, read
from benchmarks.chaos.plan import File

_WAITS_S = (0.02, 0.05, 0.1, 0.2)  # before a request is sent again; the last for all that follow
_IDLE_S = 2.0  # then the client closes a connection: before the server does, which would look like one that broke
_BROKEN = "the connection broke"


class Client:
    """Sends files and says what became of them. Close it with `async with`.

    disturbed: whether a process was killed a moment ago. Only then may a plain error of Serve's be followed by another
    try; a broken connection always may, for such a request was not answered.
    """

    def __init__(
        self, url: str, key: str, clock: Clock, deadline_ms: int, grace_s: float, disturbed: Callable[[], bool]
    ) -> None:
        self._url = url
        self._clock = clock
        self._deadline_s = deadline_ms / 1000
        self._grace_s = grace_s
        self._disturbed = disturbed
        self._numbers = itertools.count()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S),
            headers={"Authorization": f"Bearer {key}"},
        )
        self.sent = 0

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def follow(self, file: File, phase: str) -> Record:
        """Send a file and again while nothing answers, until it has an answer or its deadline is over."""
        request_id = f"chaos-{next(self._numbers)}"
        self.sent += 1
        broken = plain = 0
        told, verdict = "", None
        sent_s = self._clock.now_s()
        outcome: Outcome | None = None
        while outcome is None:
            left_s = sent_s + self._deadline_s - self._clock.now_s()
            if left_s <= 0:
                outcome = "cut off"
                break
            reading = await self._try(file, request_id, left_s)
            outcome, told, verdict = reading.outcome, reading.told, reading.verdict
            if outcome is None:
                broken, plain = broken + (told == _BROKEN), plain + (told != _BROKEN)
                await asyncio.sleep(_WAITS_S[min(broken + plain, len(_WAITS_S)) - 1])
        ended_s = self._clock.now_s()
        await asyncio.sleep(0.02)  # until the clock has seen how late the loop was
        lag_s = self._clock.lag_s(sent_s, ended_s)
        return Record(
            request_id=request_id,
            kind=file.kind,
            phase=phase,
            sent_s=sent_s,
            ended_s=ended_s,
            deadline_s=self._deadline_s,
            outcome=outcome,
            told=told,
            verdict=verdict,
            broken=broken,
            plain=plain,
            lag_s=lag_s,
        )

    async def _try(self, file: File, request_id: str, left_s: float) -> Reading:
        """One request and its reply. An outcome of None may be tried again."""
        try:
            async with self._session.post(
                f"{self._url}/v1/classify",
                params={"deadline_ms": max(1, round(1000 * left_s))},
                data=file.data,
                headers={"Content-Type": file.mime, "X-Request-Id": request_id},
                timeout=aiohttp.ClientTimeout(total=left_s + self._grace_s),
            ) as response:
                reply = Reply(response.status, response.content_type, await response.read())
        except TimeoutError:
            return Reading("unanswered", f"nothing within {left_s + self._grace_s:.0f} s")
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            return Reading(None, _BROKEN)
        reading = read(reply, file, request_id)
        if reading.outcome is None and not self._disturbed():
            return Reading("wrong", f"{reading.told}, and no process was killed")
        return reading
