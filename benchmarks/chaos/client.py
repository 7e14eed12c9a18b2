"""The load generator: sends requests and follows them to their end, in one asyncio process."""

import asyncio
import itertools
from collections.abc import Callable

import aiohttp

from benchmarks.chaos.clock import Clock
from benchmarks.chaos.outcomes import Outcome, ParsedReply, Record, Reply, parse_reply
from benchmarks.chaos.plan import File

_RETRY_DELAYS_S = (0.02, 0.05, 0.1, 0.2)  # before a retry; the last value is repeated
_KEEPALIVE_S = 2.0  # shorter than the server's, so that it never closes an idle connection first
_BROKEN = "the connection broke"


class Client:
    """Sends files and records the outcomes. Close it with `async with`.

    `recently_killed` returns whether a process was killed a moment ago. Only then is a plain error of Serve's retried.
    A broken connection is always retried, because such a request was not answered.
    """

    def __init__(
        self, url: str, key: str, clock: Clock, deadline_ms: int, grace_s: float, recently_killed: Callable[[], bool]
    ) -> None:
        self._url = url
        self._clock = clock
        self._deadline_s = deadline_ms / 1000
        self._grace_s = grace_s
        self._recently_killed = recently_killed
        self._numbers = itertools.count()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
            headers={"Authorization": f"Bearer {key}"},
        )
        self.sent = 0

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, file: File, phase: str) -> Record:
        """Send a file, with retries, until it is answered or its deadline has passed."""
        request_id = f"chaos-{next(self._numbers)}"
        self.sent += 1
        broken_connections = serve_errors = 0
        detail, verdict = "", None
        sent_s = self._clock.now_s()
        outcome: Outcome | None = None
        while outcome is None:
            remaining_s = sent_s + self._deadline_s - self._clock.now_s()
            if remaining_s <= 0:
                outcome = "cut off"
                break
            parsed = await self._try(file, request_id, remaining_s)
            outcome, detail, verdict = parsed.outcome, parsed.detail, parsed.verdict
            if outcome is None:
                broken_connections, serve_errors = (
                    broken_connections + (detail == _BROKEN),
                    serve_errors + (detail != _BROKEN),
                )
                await asyncio.sleep(_RETRY_DELAYS_S[min(broken_connections + serve_errors, len(_RETRY_DELAYS_S)) - 1])
        ended_s = self._clock.now_s()
        await asyncio.sleep(0.02)  # until the clock has measured the lag
        lag_s = self._clock.lag_s(sent_s, ended_s)
        return Record(
            request_id=request_id,
            kind=file.kind,
            phase=phase,
            sent_s=sent_s,
            ended_s=ended_s,
            deadline_s=self._deadline_s,
            outcome=outcome,
            detail=detail,
            verdict=verdict,
            broken_connections=broken_connections,
            serve_errors=serve_errors,
            lag_s=lag_s,
        )

    async def _try(self, file: File, request_id: str, remaining_s: float) -> ParsedReply:
        """Send one request and parse its reply. An outcome of None may be retried."""
        try:
            async with self._session.post(
                f"{self._url}/v1/classify",
                params={"deadline_ms": max(1, round(1000 * remaining_s))},
                data=file.data,
                headers={"Content-Type": file.mime, "X-Request-Id": request_id},
                timeout=aiohttp.ClientTimeout(total=remaining_s + self._grace_s),
            ) as response:
                reply = Reply(response.status, response.content_type, await response.read())
        except TimeoutError:
            return ParsedReply("unanswered", f"nothing within {remaining_s + self._grace_s:.0f} s")
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            return ParsedReply(None, _BROKEN)
        parsed = parse_reply(reply, file, request_id)
        if parsed.outcome is None and not self._recently_killed():
            return ParsedReply("wrong", f"{parsed.detail}, and no process was killed")
        return parsed
