"""Browsers of other pages, odd headers and slow senders, through Ray Serve's proxy."""

import asyncio
import re
import socket
import time

import httpx
import pytest

from roadwork_serve.api.incoming_bodies import BodyLimits
from roadwork_serve.schema import Verdict
from tests import corpus
from tests.attacks.test_slow_bodies import SLOW, send_slowly
from tests.e2e.conftest import Cluster

GOOD = corpus.encoded(corpus.picture())


def raw(cluster: Cluster, head: bytes, body: bytes = GOOD) -> bytes:
    """Return the response to a request whose headers httpx would not send."""
    address = httpx.URL(cluster.url)
    assert address.port is not None
    start = b"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %d\r\n" % len(body)
    with socket.create_connection((address.host, address.port), timeout=30) as opened:
        opened.sendall(start + head + b"\r\n" + body)
        return b"".join(iter(lambda: opened.recv(65536), b""))


@pytest.mark.parametrize(
    "head",
    [
        b"X-Request-Id: \xff\xfe\r\n",
        b"X-Request-Id: \x9b31m\r\n",
        b"X-Session-Id: \xff\r\n",
        b"serve_multiplexed_model_id: \xff\r\n",
        b"x-request-disconnect-disabled: \xff\r\n",
    ],
)
def test_bytes_that_are_no_text_in_a_header_of_ray_get_a_verdict(cluster: Cluster, head: bytes) -> None:
    response = raw(cluster, head)
    assert response.startswith(b"HTTP/1.1 200"), response[:500]
    document = Verdict.model_validate_json(response.partition(b"\r\n\r\n")[2])
    assert re.fullmatch(r"[0-9a-f-]{32,36}", document.request_id)


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"host": "evil.example"}],
    ids=str,
)
def test_pages_of_other_origins_get_nothing(cluster: Cluster, headers: dict[str, str]) -> None:
    for method, path in (("POST", "/v1/classify"), ("GET", "/v1/stats"), ("GET", "/v1/journal")):
        reply = httpx.request(method, cluster.url + path, headers=headers, content=GOOD if method == "POST" else None)
        assert reply.status_code == 403 and "ingress.allowed_hosts" in reply.json()["detail"]
    assert httpx.get(f"{cluster.url}/readyz", headers=headers).status_code == 200


async def test_slow_bodies_keep_nobody_out(cluster: Cluster) -> None:
    address = httpx.URL(cluster.url)
    assert address.port is not None
    slow = [asyncio.create_task(send_slowly(address.host, address.port)) for _ in range(SLOW)]
    early: list[int] = []  # until the slow ones are known to be slow, a new body has a moment to arrive where all are
    statuses: list[int] = []
    async with httpx.AsyncClient(base_url=cluster.url, timeout=20) as client:
        began_s = time.monotonic()
        while (now_s := time.monotonic()) < began_s + 10:
            some = early if now_s < began_s + 2 * BodyLimits().crowded_grace_s else statuses
            some.append((await client.post("/v1/classify", content=GOOD)).status_code)
            await asyncio.sleep(0.2)
    ended = [task.result() for task in slow if task.done()]
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    assert set(early) <= {200, 503}
    assert len(statuses) >= 10 and set(statuses) == {200}, statuses
    assert len(ended) == SLOW and set(ended) <= {408, 503}
