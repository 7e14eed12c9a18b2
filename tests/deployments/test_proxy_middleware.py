"""Requests as Ray Serve's HTTP servers read them: headers, targets, and offers of HTTP/2."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from deployments.proxy_middleware import CleanRequests, middlewares
from roadwork_serve.ray_environment import RAY

Headers = list[tuple[bytes, bytes]]


async def passed_on(headers: Headers, kind: str = "http") -> Headers:
    seen: Headers = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(scope["headers"])

    await CleanRequests(app)({"type": kind, "path": "/", "headers": headers}, None, None)  # type: ignore[arg-type]
    return seen


@pytest.mark.parametrize(
    "name",
    [
        b"x-request-id",
        b"x-request-timeout-seconds",
        b"x-session-id",
        b"serve-multiplexed-model-id",
        b"serve_multiplexed_model_id",
    ],
)
async def test_what_the_proxy_decodes_is_ascii(name: bytes) -> None:
    assert await passed_on([(name, b"a\xff\x9b1\x1b[m")]) == [(name, b"a??1?[m")]
    assert await passed_on([(name, b"mine-1")]) == [(name, b"mine-1")]


async def test_other_headers_stay_as_they_are() -> None:
    headers = [(b"x-request-key", b"caf\xc3\xa9"), (b"authorization", b"Bearer \xff"), (b"host", b"a")]
    assert await passed_on(headers) == headers
    assert await passed_on([(b"x-request-id", b"\xff")], "websocket") == [(b"x-request-id", b"\xff")]


@pytest.mark.parametrize("name", [b"x-request-disconnect-disabled", b"X-Request-Disconnect-Disabled"])
async def test_nobody_keeps_the_server_working_for_a_client_that_hung_up(name: bytes) -> None:
    assert await passed_on([(name, b"?1"), (b"host", b"a")]) == [(b"host", b"a")]


def test_ray_is_told_of_the_middleware() -> None:
    from ray.serve._private.utils import call_function_from_import_path

    (found,) = call_function_from_import_path(RAY["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"])
    assert found.cls is CleanRequests and [each.cls for each in middlewares()] == [CleanRequests]


UPGRADES = [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
    b"Connection: upgrade\r\nUpgrade: TLS/1.2, h2c\r\n",
    b"Upgrade: h2c\r\n",
]
BODY = bytes(range(256)) * 600
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Yield the port of a server that is started as Ray Serve starts its own, and returns the path and the body."""
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    middlewares()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        body = await request.body()
        await PlainTextResponse(f"{request.scope['path']} {body == BODY}")(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(lambda: CleanRequests(app), factory=True, lifespan="off", log_config=None))
    server.install_signal_handlers = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
    listener = socket.create_server(("127.0.0.1", 0))
    running = asyncio.create_task(server.serve([listener]))
    yield listener.getsockname()[1]
    server.should_exit = True
    await running


async def response(port: int, head: bytes, *rest: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for each in (head, *rest):
        writer.write(each)
        await writer.drain()
        await asyncio.sleep(0.05 if rest else 0)  # as packets of their own
    writer.write_eof()
    received = await reader.read()
    writer.close()
    return received


@pytest.mark.parametrize("apart", [False, True], ids=["in one packet", "apart"])
@pytest.mark.parametrize("framing", [LENGTH, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_an_offer_of_http2_loses_no_body(port: int, upgrade: bytes, framing: bytes, apart: bool) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\nHost: a\r\n" + upgrade + framing + b"\r\n"
    body = BODY if framing is LENGTH else b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"
    received = await response(port, head, body) if apart else await response(port, head + body)
    assert received.startswith(b"HTTP/1.1 200") and received.endswith(b"/v1/classify True"), received[:200]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"http://127.0.0.1:8000/v1/classify?deadline_ms=5", b"/v1/classify"),
        (b"https://road.example/a%20b//c", b"/a b//c"),
        (b"http://road.example", b"/"),
        (b"//v1/classify", b"//v1/classify"),
    ],
)
async def test_a_whole_url_as_target_names_its_path(port: int, target: bytes, path: bytes) -> None:
    received = await response(port, b"GET " + target + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200") and received.endswith(path + b" False"), received[:200]
