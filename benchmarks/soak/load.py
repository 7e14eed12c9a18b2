"""The load: stills, clips and hostile files, as raw bodies, JSON and forms, from clients some of which hang up."""

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp

from benchmarks.chaos.clock import Clock
from benchmarks.chaos.outcomes import Outcome, Reply, parse_reply
from benchmarks.chaos.plan import Arrival, File, arrivals

Form = Literal["raw", "json", "form"]
HANG_UP_SHARE = 0.05
_HANG_UP_WITHIN_S = 0.5
_KEEPALIVE_S = 2.0  # shorter than the server's, so that it never closes an idle connection first
_GRACE_S = 10.0  # after its deadline until a request counts as unanswered


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was followed to its end."""

    request_id: str
    kind: str
    form: Form
    outcome: Outcome | Literal["hung up"]
    #: The slug of a problem, or the fault.
    detail: str
    took_s: float


class Client:
    """Sends files, each in some form, and records the outcomes. Nothing is retried. Close it with `async with`."""

    def __init__(self, url: str, name: str, seed: int, clock: Clock, deadline_ms: int) -> None:
        self._url, self._name, self._clock, self._deadline_ms = f"{url}/v1/classify", name, clock, deadline_ms
        self._rng = random.Random(seed)
        timeout = aiohttp.ClientTimeout(total=deadline_ms / 1000 + _GRACE_S)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        self.requests: list[Request] = []

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def run(self, upcoming: Iterator[Arrival], seconds: float, stop: asyncio.Event) -> None:
        """Send each request when it is due, without waiting for earlier ones, until the time is over or it is stopped.

        Returns when all requests have ended.
        """
        began_s = self._clock.now_s()
        async with asyncio.TaskGroup() as tasks:
            for number, arrival in enumerate(upcoming):
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, began_s + min(arrival.at_s, seconds) - self._clock.now_s())):
                        await stop.wait()
                if arrival.at_s > seconds or stop.is_set():
                    break
                tasks.create_task(self._record(arrival.file, f"{self._name}-{number}"))

    async def _record(self, file: File, request_id: str) -> None:
        form: Form = self._rng.choice(("raw", "json", "form")) if file.data else "raw"
        hang_up_s = self._rng.uniform(0, _HANG_UP_WITHIN_S) if self._rng.random() < HANG_UP_SHARE else None
        sent_s = self._clock.now_s()
        try:
            async with asyncio.timeout(hang_up_s):
                outcome, detail = await self._send(file, form, request_id, halts=hang_up_s is not None)
        except TimeoutError:
            outcome, detail = ("unanswered", "") if hang_up_s is None else ("hung up", "")
        self.requests.append(Request(request_id, file.kind, form, outcome, detail, self._clock.now_s() - sent_s))

    async def _send(self, file: File, form: Form, request_id: str, halts: bool) -> tuple[Outcome, str]:
        headers = {"X-Request-Id": request_id}
        if form != "form":  # whose type names the boundary
            headers["Content-Type"] = "application/json" if form == "json" else file.mime
        body: Any = _half(file.data) if form == "raw" and file.data and halts else _body(file, form)
        try:
            async with self._session.post(
                self._url, params={"deadline_ms": self._deadline_ms}, headers=headers, data=body
            ) as response:
                reply = Reply(response.status, response.content_type, await response.read())
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            return "wrong", f"the connection broke: {error!r}"
        parsed = parse_reply(reply, file, request_id)
        return parsed.outcome or "wrong", parsed.detail


async def send(
    url: str,
    files: Sequence[File],
    per_s: float,
    seconds: float,
    clients: int,
    seed: int,
    deadline_ms: int,
    stop: asyncio.Event,
) -> list[Request]:
    """Send files at a rate from several clients together, for a time or until stopped.

    Return all requests once all have ended.
    """
    clock = Clock()

    async def one(number: int) -> list[Request]:
        async with Client(url, f"soak-{number}", seed + number, clock, deadline_ms) as client:
            await client.run(arrivals(seed + number, per_s / clients, files), seconds, stop)
            return client.requests

    return [request for each in await asyncio.gather(*map(one, range(clients))) for request in each]


def _body(file: File, form: Form) -> bytes | aiohttp.FormData:
    if form == "raw":
        return file.data
    if form == "json":
        text = base64.b64encode(file.data).decode()
        return json.dumps({"video" if file.kind == "clip" else "image": text}).encode()
    data = aiohttp.FormData()
    data.add_field("file", file.data, filename=file.name, content_type=file.mime)
    return data


async def _half(data: bytes) -> AsyncIterator[bytes]:
    """Yield the first half of a body, and never the second."""
    yield data[: len(data) // 2]
    await asyncio.Event().wait()
