"""Over real sockets: what callers do that never become a request."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import httpx
import pytest

from roadwork_serve.miner import http_server as listen
from tests.miner.calls import Said, axon, body, headers


@asynccontextmanager
async def running(cascade: Said) -> AsyncIterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = listen.server(axon(cascade).app(), "127.0.0.1", port)
    server.capture_signals = nullcontext  # type: ignore[method-assign] - signals are the test runner's
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        await task


async def test_a_caller_that_dawdles_with_its_headers_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "HEADER_TIMEOUT_S", 0.3)
    async with running(Said()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /ImageSynapse HTTP/1.1\r\nHost: m\r\n")

        async def drip() -> None:
            while True:
                writer.write(b"x-a: b\r\n")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        async with asyncio.timeout(3):
            with pytest.raises(ConnectionResetError):
                if await reader.read() == b"":
                    raise ConnectionResetError
        dripping.cancel()
        writer.close()


async def test_a_body_that_comes_by_drops_is_given_the_callers_own_time() -> None:
    async with running(Said()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = "".join(f"{name}: {value}\r\n" for name, value in headers(timeout="1.0"))
        writer.write(f"POST /ImageSynapse HTTP/1.1\r\nHost: m\r\n{head}Content-Length: 1000\r\n\r\n{{".encode())
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert b"408" in answer.split(b"\r\n")[0]
        writer.close()


async def test_who_sends_fifty_megabytes_reads_why_they_are_not_wanted() -> None:
    async with running(Said()) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        reply = await client.post("/ImageSynapse", headers=headers(), content=b"x" * 50_000_000)
        assert (reply.status_code, "bytes" in reply.json()["message"]) == (413, True)
        reply = await client.post("/ImageSynapse", headers=headers(), content=body())
        assert reply.json()["prediction"] == 0.9
        assert "server" not in reply.headers


async def test_a_head_of_a_megabyte_is_refused() -> None:
    async with running(Said()) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        try:
            reply = await client.post("/ImageSynapse", headers=[*headers(), ("x", "y" * 2**20)], content=body())
            assert reply.status_code == 400
        except httpx.HTTPError:
            pass  # it hangs up before all of it was sent
        assert (await client.post("/ImageSynapse", headers=headers(), content=body())).status_code == 200


@pytest.mark.parametrize(
    "head",
    [
        b"POST /ImageSynapse/ HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n",
        b"GET /nowhere HTTP/1.1\r\nHost: m\r\n\r\n",
        b"POST /ImageSynapse HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_a_connection_ends_with_its_answer_whatever_that_is(head: bytes) -> None:
    async with running(Said()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"P")
        async with asyncio.timeout(3):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 4")
        writer.close()


async def test_an_address_has_only_so_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "_MAX_PER_ADDRESS", 3)
    async with running(Said()) as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        with pytest.raises(httpx.TransportError):
            await well(port)
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()
        await asyncio.sleep(0.1)
        await well(port)


async def well(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.post("/ImageSynapse", headers=headers(), content=body())).status_code == 200
