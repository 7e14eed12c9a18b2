"""The client of a Serve application's cascade: results, errors, and calls while Serve is down."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator

import pytest
from ray.exceptions import ActorUnavailableError, RayTaskError
from ray.serve.exceptions import RayServeException

from deployments.cascade_client import CascadeClient, Cluster
from roadwork_serve.errors import ConfigError, DeadlineExceeded, MediaError, StageFailed, StageLost
from tests.deployments.fakes import until

VERDICT = "a verdict"


class Ingress:
    """A handle and its called method."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, int, str, str]] = []
        self.error: Exception | None = None
        self.hangs = False

    @property
    def classify(self) -> "Ingress":
        return self

    async def remote(self, *asked: object) -> str:
        self.asked.append(asked)  # type: ignore[arg-type]
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return VERDICT


class Node:
    """Stands in for Ray on this machine: each connection hands out a new handle."""

    def __init__(self) -> None:
        self.there = True
        self.replaced = False
        self.handles: list[Ingress] = []
        self.left = 0

    def connect(self) -> Ingress:
        if not self.there:
            raise StageLost("there is no application roadwork")
        self.replaced = False
        self.handles.append(Ingress())
        return self.handles[-1]

    def up(self) -> bool:
        return self.there and not self.replaced

    def leave(self) -> None:
        self.left += 1


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
async def app(node: Node) -> AsyncIterator[CascadeClient]:
    app = CascadeClient("roadwork", node, watch_s=0.01)  # type: ignore[arg-type]
    await app.ready()
    yield app
    await app.aclose()


async def ask(app: CascadeClient, deadline_ms: int = 1000) -> object:
    return await app.classify(b"jpeg", deadline_ms, "r", "validator")


async def test_a_call_goes_to_the_ingress_with_its_deadline_id_and_key(app: CascadeClient, node: Node) -> None:
    assert await ask(app) == VERDICT
    assert node.handles[0].asked == [(b"jpeg", 1000, "r", "validator")]


async def test_an_error_of_the_tree_comes_as_itself_and_any_other_as_a_failure(app: CascadeClient, node: Node) -> None:
    node.handles[0].error = RayTaskError("classify", "a long traceback", MediaError("no picture"))
    with pytest.raises(MediaError, match=r"^no picture$"):
        await ask(app)
    node.handles[0].error = RayTaskError("classify", "a long traceback", ValueError("odd\nand more"))
    with pytest.raises(StageFailed, match=r"^roadwork failed: odd$"):
        await ask(app)


async def test_a_call_that_serve_drops_raises_stage_lost(app: CascadeClient, node: Node) -> None:
    node.handles[0].error = asyncio.CancelledError()  # type: ignore[assignment]
    with pytest.raises(StageLost, match="dropped the call"):
        await ask(app)


async def test_cancelling_the_caller_cancels_the_call(app: CascadeClient, node: Node) -> None:
    node.handles[0].hangs = True
    asking = asyncio.create_task(ask(app))
    await until(lambda: len(node.handles[0].asked) == 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_missing_application_is_an_error_before_the_first_call() -> None:
    node = Node()
    node.there = False
    with pytest.raises(StageLost, match="no application roadwork"):
        await CascadeClient("roadwork", node).ready()  # type: ignore[arg-type]


async def test_calls_fail_at_once_while_serve_is_down_and_succeed_when_it_is_back(
    app: CascadeClient, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        node.there = False
        await until(lambda: app._handle is None)
        with pytest.raises(StageLost, match="is gone"):
            async with asyncio.timeout(0.1):
                await ask(app)
        node.there = True
        await until(lambda: app._handle is node.handles[-1])
    assert await ask(app) == VERDICT
    assert "is gone" in caplog.text and "is back" in caplog.text


async def test_a_replacement_serve_gets_the_calls(app: CascadeClient, node: Node) -> None:
    node.replaced = True
    await until(lambda: app._handle is not None and app._handle is not node.handles[0])
    assert await ask(app) == VERDICT
    assert (len(node.handles[0].asked), len(node.handles[1].asked)) == (0, 1)


async def test_lost_and_late_calls_renew_the_handle_without_failing_other_calls(
    app: CascadeClient, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.cascade_client._MIN_HANDLE_AGE_S", 0.05)
    first = node.handles[0]
    first.hangs = True
    slow = asyncio.create_task(ask(app, 60_000))
    await until(lambda: len(first.asked) == 1)
    monkeypatch.setattr("deployments.cascade_client._GRACE_S", 0.0)
    with pytest.raises(DeadlineExceeded, match="in time"):
        await ask(app, 10)
    await until(lambda: app._handle is not None and app._handle is not node.handles[0])
    node.handles[1].error = ActorUnavailableError("The actor died.\nand why", None)
    with pytest.raises(StageLost, match="is lost"):
        await ask(app)
    await until(lambda: len(node.handles) == 3)
    assert node.left == 0 and not slow.done()
    slow.cancel()


async def test_a_new_handle_is_not_renewed_at_once(app: CascadeClient, node: Node) -> None:
    node.handles[0].error = ActorUnavailableError("The actor died.", None)
    for _ in range(3):
        with pytest.raises(StageLost):
            await ask(app)
        await asyncio.sleep(0.03)
    assert len(node.handles) == 1


class Ray:
    """Stands in for the modules `ray` and `serve`, and for the process that listens on Ray's port."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.listening = self.app = True
        self.joined = self.left = 0
        self.inside = False
        self.controller = "first"
        self.broken: Exception | None = None
        monkeypatch.setattr("deployments.cascade_client.ray", self)
        monkeypatch.setattr("deployments.cascade_client.serve", self)
        monkeypatch.setattr("deployments.cascade_client.cluster_address", self.found)
        monkeypatch.setattr("deployments.cascade_client.socket.create_connection", self.connection)

    gcs_address = "127.0.0.1:6379"

    def is_initialized(self) -> bool:
        return self.inside

    def found(self) -> str:
        if not self.listening:
            raise ConfigError("no server of yours is running with the state folder /srv. Do this or that.")
        return self.gcs_address

    def init(self, address: str, **_: object) -> None:
        assert address == self.gcs_address
        self.joined, self.inside = self.joined + 1, True

    def shutdown(self) -> None:
        self.left, self.inside = self.left + self.inside, False

    def get_runtime_context(self) -> "Ray":
        return self

    def connection(self, address: tuple[str, int], timeout: float) -> socket.socket:
        if not self.listening:
            raise ConnectionRefusedError
        return socket.socket()

    def get_app_handle(self, name: str) -> str:
        if self.broken is not None:
            raise self.broken
        if not self.app:
            raise RayServeException("Application 'roadwork' does not exist.")
        return f"handle of {name}"

    def get_actor(self, name: str, namespace: str) -> str:
        if not self.app:
            raise ValueError("no such actor")
        return self.controller


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    return Ray(monkeypatch)


def test_a_ray_without_serve_is_connected_to_once(ray: Ray) -> None:
    cluster = Cluster("roadwork")
    ray.app = False
    for _ in range(3):
        with pytest.raises(StageLost, match="does not exist"):
            cluster.connect()
    ray.app = True
    assert cluster.connect() == "handle of roadwork" and cluster.up()
    assert (ray.joined, ray.left) == (1, 0)


def test_a_dead_ray_is_disconnected_before_the_next_connection(ray: Ray) -> None:
    cluster = Cluster("roadwork")
    cluster.connect()
    ray.listening = False
    assert not cluster.up()
    with pytest.raises(StageLost, match=r"\(no server of yours is running with the state folder /srv\); start one"):
        cluster.connect()
    assert (ray.joined, ray.left) == (1, 1)
    ray.listening = True
    assert cluster.connect() == "handle of roadwork"
    assert (ray.joined, ray.left) == (2, 1)


def test_an_address_at_which_nothing_answers_is_not_joined(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.cascade_client.cluster_address", lambda: ray.gcs_address)
    ray.listening = False
    with pytest.raises(StageLost, match=r"nothing answers at 127\.0\.0\.1:6379"):
        Cluster("roadwork").connect()
    assert ray.joined == 0


def test_a_broken_ray_is_disconnected_too(ray: Ray) -> None:
    cluster = Cluster("roadwork")
    ray.broken = RuntimeError("RPC error")
    with pytest.raises(StageLost, match="RPC error"):
        cluster.connect()
    assert (ray.joined, ray.left) == (1, 1)


def test_a_restarted_serve_in_the_same_ray_is_detected(ray: Ray) -> None:
    cluster = Cluster("roadwork")
    cluster.connect()
    assert cluster.up()
    ray.controller = "second"
    assert not cluster.up()
    cluster.connect()
    assert cluster.up() and ray.left == 0
