"""A real server behind HAProxy and, as with `roadwork serve --no-haproxy`, behind Ray Serve's own proxy."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Address, IPv6Address

import httpx
import pytest

from benchmarks.chaos.processes import processes
from benchmarks.fake_models import BUILDER, overrides
from benchmarks.server import Server, started
from benchmarks.transport import MODES, bodies
from roadwork_serve.schema import BatchResult, Problem, Verdict
from roadwork_serve.server_state import Info
from tests.e2e.conftest import eventually
from tests.e2e.test_cluster import listening

JPEG = bodies()["small"]
KIND = {"content-type": "image/jpeg"}


@pytest.fixture(scope="module", params=MODES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server with undecided stages, so that every photo reaches a slow reasoner."""
    args = {"profile": "mini", "overrides": overrides({"reasoner": 300}, sure=0, doubt=0)}
    log = tmp_path_factory.mktemp("log") / "server.log"
    with started(log, args, MODES[request.param], BUILDER) as server:
        yield server
    eventually(lambda: not list(processes(server)), 10, "nothing of it is left, HAProxy least of all")


@pytest.fixture
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30, headers=KIND) as client:
        yield client


def verdict(response: httpx.Response) -> Verdict:
    assert response.status_code == 200, response.text
    return Verdict.model_validate_json(response.content)


def problem(response: httpx.Response) -> Problem:
    assert response.headers["content-type"] == "application/problem+json", response.text
    return Problem.model_validate_json(response.content)


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 2**16):
        yield data[at : at + 2**16]


def bound(server: Server, proxies: list[int]) -> dict[str, list[IPv4Address | IPv6Address]] | None:
    """Return the listening addresses by process, once each HAProxy has this many.

    None while a process starts or ends, as HAProxy does on a reload.
    """
    try:
        found = {f"{title} {pid}": listening(pid) for pid, title in list(processes(server))}
    except OSError:
        return None
    counts = [len(addresses) for title, addresses in found.items() if "bin/haproxy " in title]
    return found if counts == proxies else None


def test_nothing_listens_beyond_loopback(server: Server, request: pytest.FixtureRequest) -> None:
    proxies = [3] if request.node.callspec.params["server"] == "default" else []  # requests, metrics, statistics
    found = eventually(lambda: bound(server, proxies), 20, "HAProxy listens, or is not there")
    beyond = [(title, each) for title, addresses in found.items() for each in addresses if not each.is_loopback]
    assert not beyond


@pytest.mark.parametrize("in_chunks", [False, True])
async def test_a_photo_is_answered_under_its_id(client: httpx.AsyncClient, in_chunks: bool) -> None:
    body = chunks(JPEG) if in_chunks else JPEG
    response = await client.post("/v1/classify", content=body, headers={"x-request-id": "mine-1"})
    answer = verdict(response)
    assert answer.exit.stage == "reasoner"
    assert answer.request_id == response.headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize("upgrade", [{}, {"connection": "Upgrade, HTTP2-Settings", "http2-settings": "AAMAAABkAAQ"}])
@pytest.mark.parametrize("in_chunks", [False, True])
async def test_an_offer_of_http2_is_ignored(
    client: httpx.AsyncClient, in_chunks: bool, upgrade: dict[str, str]
) -> None:
    body = chunks(JPEG) if in_chunks else JPEG
    response = await client.post("/v1/classify", content=body, headers={"upgrade": "h2c"} | upgrade)
    assert verdict(response).exit.stage == "reasoner"


async def test_an_id_that_is_no_text_is_replaced(client: httpx.AsyncClient) -> None:
    for given in (b"\xff\xfe", b"\x9b31m"):
        answer = verdict(await client.post("/v1/classify", content=JPEG, headers={b"x-request-id": given}))
        assert answer.request_id.replace("-", "").isalnum() and len(answer.request_id) in (32, 36)


async def test_each_file_of_a_batch_is_answered(client: httpx.AsyncClient) -> None:
    files = [("file", ("a.jpg", JPEG)), ("file", ("b.jpg", b"text"))]
    del client.headers["content-type"]
    response = await client.post("/v1/classify/batch", files=files)
    photo, text = BatchResult.model_validate_json(response.content).results
    assert photo.verdict and not photo.verdict.degraded
    assert text.problem and text.problem.status == 415


async def test_deadlines_are_met(client: httpx.AsyncClient) -> None:
    assert verdict(await client.post("/v1/classify?deadline_ms=200", content=JPEG)).exit.reason == "deadline"
    hurried = await client.post("/v1/classify", content=JPEG, headers={"x-request-timeout-seconds": "0.25"})
    assert verdict(hurried).exit.reason == "deadline"
    assert problem(await client.post("/v1/classify?deadline_ms=1", content=JPEG)).status == 504


@pytest.mark.parametrize("server", ["default"], indirect=True)
async def test_headers_that_do_not_end_end_their_connection(server: Server) -> None:
    address = httpx.URL(server.url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    async with asyncio.timeout(15):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    writer.close()


async def test_bodies_of_one_address_leave_room_for_those_of_another(server: Server) -> None:
    address = httpx.URL(server.url)

    async def begin(source: str, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(address.host, address.port, local_addr=(source, 0))
        writer.write(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(JPEG) + body)
        return reader, writer

    held = [await begin("127.0.0.2", b"abc") for _ in range(128)]  # as many as one caller may send at a time
    reader, writer = await begin("127.0.0.3", JPEG[:100])
    await asyncio.sleep(0.6)  # a caller without room would have a quarter of a second
    writer.write(JPEG[100:])
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    for _, each in (*held, (reader, writer)):
        each.close()


@pytest.mark.parametrize("in_chunks", [False, True])
async def test_a_body_that_is_too_large_is_rejected(client: httpx.AsyncClient, in_chunks: bool) -> None:
    body = bytes(33 * 2**20)
    response = await client.post("/v1/classify", content=chunks(body) if in_chunks else body)
    assert problem(response).status == response.status_code == 413


async def test_a_photo_larger_than_grpc_takes_by_default_reaches_every_stage(client: httpx.AsyncClient) -> None:
    filler = b"".join(b"\xff\xfe\xff\xff" + bytes(65_533) for _ in range(80))  # 5 MB of comments
    answer = verdict(await client.post("/v1/classify", content=JPEG[:2] + filler + JPEG[2:]))
    assert answer.exit.stage == "reasoner" and not answer.degraded


async def test_a_client_that_hangs_up_leaves_no_work_behind(client: httpx.AsyncClient) -> None:
    async def in_flight() -> int:
        return Info.model_validate_json((await client.get("/v1/info")).content).in_flight

    async def until(wanted: int) -> None:
        while await in_flight() != wanted:
            pass

    asking = [asyncio.create_task(client.post("/v1/classify", content=JPEG)) for _ in range(20)]
    async with asyncio.timeout(5):
        await until(20)
    for task in asking:
        task.cancel()
    async with asyncio.timeout(1):
        await until(0)
    ended = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended)
    assert await in_flight() == 0
