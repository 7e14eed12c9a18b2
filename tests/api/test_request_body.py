"""Bodies that do not arrive as the head of the request promises, or are encoded."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from roadwork_serve.api.classify_routes import http_app
from tests.api.test_classify_routes import FORM, FakeService, problem


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(http_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


UPGRADE = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQ"}


async def post(client: httpx.AsyncClient, body: bytes, headers: dict[str, Any]) -> httpx.Response:
    async def arriving() -> AsyncIterator[bytes]:
        yield body

    return await client.post("/v1/classify", content=arriving(), headers={"content-type": "image/jpeg"} | headers)


@pytest.mark.parametrize("kind", ["image/jpeg", "application/json", FORM])
@pytest.mark.parametrize("body", [b"", b"half"])
async def test_a_body_shorter_than_its_length_is_no_fault_of_the_file(
    client: httpx.AsyncClient, service: FakeService, kind: str, body: bytes
) -> None:
    response = await post(client, body, {"content-type": kind, "content-length": "1500"})
    assert f"of the 1,500 bytes of the body {len(body)} arrived" in problem(response, 400, "bad-request").detail
    assert service.seen == []


@pytest.mark.parametrize("framing", [{"content-length": "1500"}, {"transfer-encoding": "chunked"}])
async def test_a_body_lost_to_an_offer_of_http2_names_the_cure(
    client: httpx.AsyncClient, service: FakeService, framing: dict[str, str]
) -> None:
    detail = problem(await post(client, b"", UPGRADE | framing), 400, "bad-request").detail
    assert "'h2c'" in detail and "--http1.1" in detail and "version(HTTP_1_1)" in detail
    assert service.seen == []


async def test_an_offer_of_http2_is_ignored_when_the_body_arrives(
    client: httpx.AsyncClient, service: FakeService
) -> None:
    for framing in ({"content-length": "5"}, {"transfer-encoding": "chunked"}):
        assert (await post(client, b"photo", UPGRADE | framing)).status_code == 200
    assert service.seen == [b"photo"] * 2


@pytest.mark.parametrize(
    "coding", ["gzip", "br", "deflate", "zstd", "x-gzip", "aws-chunked", "identity, gzip", "utf-8"]
)
@pytest.mark.parametrize("kind", ["image/jpeg", "application/json", FORM])
async def test_an_encoded_body_is_refused_by_name(
    client: httpx.AsyncClient, service: FakeService, coding: str, kind: str
) -> None:
    response = await post(client, b"\x1f\x8b", {"content-type": kind, "content-encoding": coding})
    assert f"Content-Encoding is '{coding}'" in problem(response, 415, "unsupported-encoding").detail
    assert response.headers["accept-encoding"] == "identity"
    assert service.seen == []


@pytest.mark.parametrize("coding", ["identity", "Identity", "", "identity, identity"])
async def test_identity_is_no_encoding(client: httpx.AsyncClient, service: FakeService, coding: str) -> None:
    assert (await post(client, b"photo", {"content-encoding": coding})).status_code == 200
    assert service.seen == [b"photo"]
