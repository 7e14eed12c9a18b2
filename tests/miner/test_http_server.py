"""Misbehaving connections that never become a request, over real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import httpx
import pytest
from uvicorn.server import ServerState

from roadwork_serve.miner import http_server as listen
from tests.miner.calls import FakeCascade, axon, body, headers

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def running(cascade: FakeCascade) -> AsyncIterator[int]:
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


async def test_a_caller_with_slow_headers_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "HEADER_TIMEOUT_S", 0.3)
    async with running(FakeCascade()) as port:
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


async def test_a_slow_body_is_given_the_callers_timeout() -> None:
    async with running(FakeCascade()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = "".join(f"{name}: {value}\r\n" for name, value in headers(timeout="1.0"))
        writer.write(f"POST /ImageSynapse HTTP/1.1\r\nHost: m\r\n{head}Content-Length: 1000\r\n\r\n{{".encode())
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert b"408" in answer.split(b"\r\n")[0]
        writer.close()


async def test_a_body_of_fifty_megabytes_gets_a_413_with_the_reason() -> None:
    async with running(FakeCascade()) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        reply = await client.post("/ImageSynapse", headers=headers(), content=b"x" * 50_000_000)
        assert (reply.status_code, "bytes" in reply.json()["message"]) == (413, True)
        reply = await client.post("/ImageSynapse", headers=headers(), content=body())
        assert reply.json()["prediction"] == 0.9
        assert "server" not in reply.headers


async def test_headers_of_a_megabyte_are_rejected() -> None:
    async with running(FakeCascade()) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        try:
            reply = await client.post("/ImageSynapse", headers=[*headers(), ("x", "y" * 2**20)], content=body())
            assert reply.status_code == 400
        except httpx.HTTPError:
            pass  # the server hangs up before the end
        assert (await client.post("/ImageSynapse", headers=headers(), content=body())).status_code == 200


@pytest.mark.parametrize(
    "head",
    [
        b"POST /ImageSynapse/ HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n",
        b"GET /nowhere HTTP/1.1\r\nHost: m\r\n\r\n",
        b"POST /ImageSynapse HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_a_connection_closes_after_every_response(head: bytes) -> None:
    async with running(FakeCascade()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"P")
        async with asyncio.timeout(3):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 4")
        writer.close()


async def test_connections_per_network_are_limited_and_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "_MAX_PER_NETWORK", 3)
    monkeypatch.setattr(listen, "_MAX_REFUSED", 20)
    async with running(FakeCascade()) as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for _ in range(5):
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                reply = await client.post("/ImageSynapse", headers=headers(), content=body() + b" " * 200_000)
            assert (reply.status_code, reply.headers["retry-after"]) == (429, "5")
            assert "the limit; close some" in reply.json()["message"]
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()
        await asyncio.sleep(0.1)
        await well(port)


async def test_where_all_connections_are_taken_the_network_with_most_gives_one_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listen, "_MAX_CONNECTIONS", 4)
    async with running(FakeCascade()) as port:

        async def opened(host: str) -> Connection:
            return await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0))

        few = [await opened("127.0.0.2")]
        many = [await opened("127.0.0.3") for _ in range(3)]
        few[0][1].write(b"POST /ImageSynapse HTTP/1.1\r\n")
        await well(port)  # a network without any
        async with asyncio.timeout(3):
            assert await _read(many[0][0]) == b"", "the oldest is cut"
        few += [await opened("127.0.0.2")]
        more = await opened("127.0.0.3")
        async with asyncio.timeout(3):
            assert (await _read(more[0])).startswith(b"HTTP/1.1 503"), "no network has more than this one"
        for _, writer in few:  # all others have kept theirs
            writer.write(b"POST /ImageSynapse HTTP/1.1\r\n" * (writer is not few[0][1]) + b"Host: m\r\n\r\n")
        async with asyncio.timeout(3):
            assert all([(await _read(reader)).startswith(b"HTTP/1.1 400") for reader, _ in few])
        for _, writer in (*many, *few, more):
            writer.close()


class Peer(asyncio.Transport):
    """A connection from any address, which records what it is sent."""

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 4000), "sockname": ("::", 8091)})
        self.sent = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)

    def write_eof(self) -> None: ...
    def abort(self) -> None: ...


@pytest.mark.parametrize(
    ("first", "same", "other"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1"),
        ("192.0.2.7", "::ffff:192.0.2.7", "::ffff:192.0.2.8"),
    ],
)
async def test_connections_are_counted_by_network(
    monkeypatch: pytest.MonkeyPatch, first: str, same: str, other: str
) -> None:
    monkeypatch.setattr(listen, "_MAX_PER_NETWORK", 1)
    config = listen.server(axon(FakeCascade()).app(), "::", 8091).config
    connections: list[listen.DeadlineH11Protocol] = []

    def answer(address: str) -> bytes:
        connections.append(listen.DeadlineH11Protocol(config=config, server_state=ServerState(), app_state={}))
        peer = Peer(address)
        connections[-1].connection_made(peer)
        return peer.sent[:12]

    try:
        assert [answer(address) for address in (first, same, other)] == [b"", b"HTTP/1.1 429", b""]
    finally:
        for each in connections:
            each.connection_lost(ConnectionResetError())
    assert not listen.DeadlineH11Protocol._open


async def test_refused_connections_are_bounded_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "_MAX_PER_NETWORK", 1)
    monkeypatch.setattr(listen, "_MAX_REFUSED", 2)
    monkeypatch.setattr(listen, "_REFUSED_S", 0.2)
    async with running(FakeCascade()) as port:
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        async with asyncio.timeout(3):
            told = [await _read(reader) for reader, _ in opened[1:]]
        assert [answer.startswith(b"HTTP/1.1 429") for answer in told] == [True, True, False]
        while listen.DeadlineH11Protocol._refused_count:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)
        for _, writer in opened:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def well(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.post("/ImageSynapse", headers=headers(), content=body())).status_code == 200
