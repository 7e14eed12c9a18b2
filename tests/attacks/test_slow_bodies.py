"""Many bodies that arrive slowly, over sockets: others are answered meanwhile."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from roadwork_serve.api.admission import Admission, ByteReservation
from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.profiles.ingress_spec import IngressSpec
from tests.api.test_classify_routes import PROFILE, FakeService
from tests.e2e.test_openapi import serving

SLOW = 256
SECONDS = 12.0


class Admitting(FakeService):
    """Has as many places as the server."""

    def __init__(self) -> None:
        super().__init__()
        ingress = IngressSpec()
        self.profile = PROFILE.model_copy(update={"ingress": ingress})
        self.places = Admission(ingress.max_ongoing_requests, ingress.max_in_flight_bytes)

    @contextmanager
    def receiving(self) -> Iterator[ByteReservation]:
        self.places.check()
        with self.places.reservation() as held:
            yield held

    @contextmanager
    def admission(self) -> Iterator[None]:
        self.places.enter()
        try:
            yield
        finally:
            self.places.leave()


async def send_slowly(host: str, port: int) -> int:
    """Announce 300 bytes, send one every twelve seconds, and return the status of the response."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"POST /v1/classify HTTP/1.1\r\nHost: {host}\r\nContent-Length: 300\r\n\r\na".encode())
        while True:
            try:
                async with asyncio.timeout(12):
                    return int((await reader.readline()).split()[1])
            except TimeoutError:
                writer.write(b"a")
    finally:
        writer.close()


@pytest.mark.timeout(60)
async def test_slow_bodies_keep_nobody_out():
    service = Admitting()
    with serving(http_app(service, Authenticator(None))) as url:
        address = httpx.URL(url)
        assert address.port is not None
        slow = [asyncio.create_task(send_slowly(address.host, address.port)) for _ in range(SLOW)]
        statuses: list[int] = []
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            ends_s = time.monotonic() + SECONDS
            while time.monotonic() < ends_s:
                statuses.append((await client.post("/v1/classify", content=b"photo" * 2_000)).status_code)
                await asyncio.sleep(0.2)
        ended = [task.result() for task in slow if task.done()]
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
    assert len(statuses) > 20 and set(statuses) == {200}
    assert len(ended) == SLOW and set(ended) <= {408, 503}
    assert (service.places.in_flight, service.places.reserved_bytes) == (0, 0)
