"""The public client against the real routes, over services without Ray, stages or a database."""

import asyncio
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.api.job_routes import job_routes
from roadwork_serve.api.jobs import JobService
from roadwork_serve.api.policy_routes import policy_routes
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.client import AsyncClient, Client, Retry
from roadwork_serve.errors import (
    BrokenMedia,
    Forbidden,
    NotReady,
    Overloaded,
    PolicyConflict,
    PolicyRefused,
    Unauthorised,
)
from roadwork_serve.profiles.jobs import JobSpec
from tests.api import test_job_routes, test_journal_routes, test_policy_routes
from tests.api.test_classify_routes import FakeService

KEY = "rw_admin"
KEYS = [
    {"name": "ann", "role": "admin", "sha256": hashlib.sha256(KEY.encode()).hexdigest()},
    {"name": "cam", "role": "client", "sha256": hashlib.sha256(b"rw_client").hexdigest()},
]
NO_RETRY = Retry(max_tries=1)
#: A call of every method: its name, arguments, and how to check the result.
CALLS: list[tuple[str, tuple[Any, ...], Callable[[Any], bool]]] = [
    ("classify", (b"photo",), lambda verdict: verdict.label == "roadwork"),
    (
        "classify_batch",
        ([("a.jpg", b"photo"), ("b.jpg", b"bad")],),
        lambda batch: batch.results[1].problem.status == 422,
    ),
    ("health", (), lambda health: health.status == "ok"),
    ("ready", (), lambda readiness: readiness.up == ["backbone"]),
    ("info", (), lambda info: info.profile == "test"),
    ("stats", (), lambda stats: stats.replicas == []),
    ("policy", (), lambda state: state.version == "a"),
    ("put_policy", (load_policy("mini"),), lambda change: change.revision == 2),
    ("rollback_policy", (), lambda change: change.revision == 3),
    ("preview_policy", (load_policy("mini"),), lambda preview: preview == test_journal_routes.PREVIEW),
    ("journal", (), lambda page: page.entries == [test_journal_routes.ANSWER]),
    ("journal_media", ("a1",), lambda data: data[:2] == b"\xff\xd8"),
    ("journal_thumbnail", ("a1",), lambda data: data == b"small"),
    ("withdraw_label", ("a1",), lambda entry: entry.id == "a1"),
    ("label", ("a1", "unclear"), lambda entry: entry.id == "a1"),
    ("create_job", (Path(__file__),), lambda job: job.id == test_job_routes.JOB.id),
    ("job", (test_job_routes.JOB.id,), lambda job: job == test_job_routes.JOB),
    ("jobs", (), lambda page: [job.id for job in page.jobs] == [test_job_routes.JOB.id]),
    ("cancel_job", (test_job_routes.JOB.id,), lambda job: job.state == "done"),
]


class Bridge(httpx.BaseTransport):
    """Serves a synchronous client from an ASGI application, each request in an event loop of its own."""

    def __init__(self, app: FastAPI) -> None:
        self._transport = httpx.ASGITransport(app)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def run() -> httpx.Response:
            content = request.read()
            asked = httpx.Request(request.method, request.url, headers=request.headers, content=content)
            response = await self._transport.handle_async_request(asked)
            return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())

        return asyncio.run(run())


class Server:
    """The application with the services behind it."""

    def __init__(self) -> None:
        self.classifier = FakeService()
        self.policies, self.journal = test_policy_routes.Service(), test_journal_routes.Service()
        auth = Authenticator.from_environment(1, {"ROADWORK_KEYS": json.dumps(KEYS)})
        self.app = http_app(self.classifier, auth)
        journal = test_journal_routes.routes(self.journal, auth)
        jobs = job_routes(cast(JobService, test_job_routes.Jobs()), JobSpec(), auth)
        for routes in (*policy_routes(self.policies, auth), journal, jobs):
            self.app.include_router(routes)

    def call(self, method: str, *args: Any, key: str = KEY, **more: Any) -> Any:
        with Client("http://127.0.0.1", key, retry=NO_RETRY, transport=Bridge(self.app)) as client:
            return getattr(client, method)(*args, **more)

    async def call_async(self, method: str, *args: Any, key: str = KEY, **more: Any) -> Any:
        transport = httpx.ASGITransport(self.app)
        async with AsyncClient("http://127.0.0.1", key, retry=NO_RETRY, transport=transport) as client:
            return await getattr(client, method)(*args, **more)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.mark.parametrize(("method", "args", "is_right"), CALLS, ids=[call[0] for call in CALLS])
def test_every_method_gets_its_model_from_the_real_route(
    server: Server, method: str, args: tuple[Any, ...], is_right: Callable[[Any], bool]
) -> None:
    assert is_right(server.call(method, *args))
    assert is_right(asyncio.run(server.call_async(method, *args)))


def test_every_route_has_a_method(server: Server) -> None:
    called: set[tuple[str, str]] = set()

    class Recorder(Bridge):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            called.add((request.method.lower(), request.url.path))
            return super().handle_request(request)

    with Client("http://127.0.0.1", KEY, transport=Recorder(server.app)) as client:
        for method, args, _ in CALLS:
            getattr(client, method)(*args)
    for path, operations in server.app.openapi()["paths"].items():
        pattern = re.compile(re.sub(r"\{\w+\}", "[^/]+", path))
        for method in operations:
            assert any(name == method and pattern.fullmatch(at) for name, at in called), f"{method} {path}"


def test_the_context_of_a_request_reaches_the_service(server: Server) -> None:
    verdict = server.call("classify", b"photo", deadline_ms=2000, request_key="camera 1", request_id="r-1")
    assert verdict.request_id == "r-1"
    assert server.classifier.contexts[0].key == "camera 1"
    assert 1 < server.classifier.left_s < 2


def test_errors_of_the_server_are_raised_by_the_client(server: Server) -> None:
    with pytest.raises(BrokenMedia, match="it is bad"):
        server.call("classify", b"bad")
    with pytest.raises(Unauthorised):
        server.call("info", key="")
    with pytest.raises(Forbidden):
        server.call("rollback_policy", key="rw_client")
    with pytest.raises(PolicyRefused, match="photo"):
        server.call("put_policy", {"version": "b", "photo": [], "clip": []})
    server.policies.error = PolicyConflict("no earlier revision is stored")
    with pytest.raises(PolicyConflict, match="no earlier revision"):
        server.call("rollback_policy")
    server.classifier.busy = True
    with pytest.raises(Overloaded) as raised:
        server.call("classify", b"photo")
    assert raised.value.retry_after_s == 2
    server.classifier.closed = NotReady("still loading: vlm")
    with pytest.raises(NotReady, match="still loading: vlm"):
        server.call("ready")
