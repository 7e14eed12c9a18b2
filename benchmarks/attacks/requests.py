"""The requests of an attack: ordinary photos at a steady rate, heavy files, and bodies that arrive slowly."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle

import httpx

DEADLINE_MS = 8_000
_GRACE_S = 20.0
_SLOW_EVERY_S = 12.0  # a byte of a slow body


@dataclass(slots=True)
class Served:
    """The outcome of a series of requests. Status 0 is a broken connection."""

    statuses: list[int] = field(default_factory=list[int])
    took_s: list[float] = field(default_factory=list[float])

    @property
    def answered(self) -> int:
        """Number of verdicts."""
        return self.statuses.count(200)

    def quantile_s(self, share: float) -> float:
        """Return a quantile of the times of the verdicts; infinite without any."""
        times = sorted(took for took, status in zip(self.took_s, self.statuses, strict=True) if status == 200)
        return times[min(len(times) - 1, int(share * len(times)))] if times else float("inf")


async def classify(client: httpx.AsyncClient, data: bytes, served: Served) -> None:
    """Send a file and record how it was served."""
    began = time.monotonic()
    try:
        response = await client.post(
            "/v1/classify",
            params={"deadline_ms": DEADLINE_MS},
            content=data,
            headers={"Content-Type": "application/octet-stream"},
            timeout=DEADLINE_MS / 1000 + _GRACE_S,
        )
        status = response.status_code
    except httpx.TransportError:
        status = 0
    served.statuses.append(status)
    served.took_s.append(time.monotonic() - began)


async def steadily(client: httpx.AsyncClient, files: Sequence[bytes], per_s: float, seconds: float) -> Served:
    """Send files in turns at a fixed rate, without waiting for answers. Return how they were served, once all were."""
    served = Served()
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number, data in zip(range(int(seconds * per_s)), cycle(files), strict=False):
            await asyncio.sleep(max(0.0, began + number / per_s - time.monotonic()))
            tasks.create_task(classify(client, data, served))
    return served


async def spread(client: httpx.AsyncClient, files: Sequence[bytes], seconds: float) -> Served:
    """Send each file once, spread over a time. Return how they were served, once all were."""
    return await steadily(client, files, len(files) / seconds, seconds)


async def send_slowly(host: str, port: int, key: str) -> int:
    """Announce 300 bytes, send one at a time, and return the status of the response."""
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST /v1/classify HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {key}\r\nContent-Length: 300\r\n\r\nabc"
    try:
        writer.write(head.encode())
        while True:
            try:
                async with asyncio.timeout(_SLOW_EVERY_S):
                    return int((await reader.readline()).split()[1])
            except TimeoutError:
                writer.write(b"a")
    finally:
        writer.close()


async def keep_sending_slowly(host: str, port: int, key: str) -> None:
    """Send slow bodies one after another, until cancelled."""
    while True:
        try:
            await send_slowly(host, port, key)
        except (OSError, IndexError):  # refused, or closed without a response
            await asyncio.sleep(0.1)
