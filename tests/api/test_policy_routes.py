"""The routes of whoever runs the server, over a service that remembers what it was told."""

import hashlib
import json

import httpx
import pytest
from fastapi import FastAPI

from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.policy_routes import MAX_POLICY_BYTES, policy_routes
from roadwork_serve.api.problem_details import install_problem_handlers
from roadwork_serve.errors import PolicyConflict, PolicyRefused
from roadwork_serve.schema import PolicyChange, PolicyState, ReplicaStats, Stats

SECRET = "rw_admin"
KEYS = [
    {"name": "ann", "role": "admin", "sha256": hashlib.sha256(SECRET.encode()).hexdigest()},
    {"name": "cam", "role": "client", "sha256": hashlib.sha256(b"rw_client").hexdigest()},
]


class Service:
    def __init__(self) -> None:
        self.told: list[tuple[object, str]] = []
        self.error: Exception | None = None

    async def put_policy(self, rules: object, by: str) -> PolicyChange:
        if self.error:
            raise self.error
        self.told.append((rules, by))
        return PolicyChange(number=2, version="b", replicas=2)

    async def roll_back(self, by: str) -> PolicyChange:
        if self.error:
            raise self.error
        return PolicyChange(number=3, version="a", replicas=2)

    async def policy(self) -> PolicyState:
        return PolicyState(number=1, version="a", rules={}, history=[])

    async def stats(self) -> Stats:
        load = ReplicaStats(
            replica="r", in_flight=0, reading=0, policy_version="a", policy_revision=1, degradation_level=0, stages=[]
        )
        return Stats(replicas=[load])


@pytest.fixture
def service() -> Service:
    return Service()


def client(service: Service, key: str = SECRET, keys: object = KEYS) -> httpx.AsyncClient:
    app = FastAPI()

    @app.middleware("http")
    async def named(request, call_next):
        request.state.request_id = "r1"
        return await call_next(request)

    install_problem_handlers(app)
    guard = Authenticator.from_environment(1, {"ROADWORK_KEYS": json.dumps(keys)} if keys else {})
    for routes in policy_routes(service, guard):
        app.include_router(routes)
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://t", headers={"X-API-Key": key} if key else {}
    )


async def test_an_admin_puts_a_policy_and_rolls_it_back(service: Service):
    async with client(service) as asked:
        reply = await asked.put("/v1/policy", json={"version": "b"})
        assert (reply.status_code, reply.json()) == (200, {"number": 2, "version": "b", "replicas": 2})
        assert service.told == [({"version": "b"}, "ann")]
        assert (await asked.post("/v1/policy/rollback")).json()["version"] == "a"
        assert (await asked.get("/v1/policy")).json()["version"] == "a"
        assert (await asked.get("/v1/stats")).json()["replicas"][0]["replica"] == "r"


@pytest.mark.parametrize(("key", "keys", "status"), [("", KEYS, 401), ("rw_no", KEYS, 401), ("rw_client", KEYS, 403)])
async def test_nobody_else_may(service: Service, key: str, keys: object, status: int):
    async with client(service, key, keys) as asked:
        assert (await asked.put("/v1/policy", json={"version": "b"})).status_code == status
        assert (await asked.post("/v1/policy/rollback")).status_code == status
    assert service.told == []


async def test_on_a_server_without_keys_nobody_may_and_it_says_what_to_do(service: Service):
    async with client(service, "", None) as asked:
        reply = await asked.put("/v1/policy", json={"version": "b"})
        assert reply.status_code == 403
        assert "roadwork key" in reply.json()["detail"]
        assert (await asked.get("/v1/stats")).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"version: b", 400), (b"[" * 100_000, 400), (b'{"a": "' + b"x" * MAX_POLICY_BYTES + b'"}', 413)],
)
async def test_a_body_that_cannot_be_used_is_a_problem(service: Service, body: bytes, status: int):
    async with client(service) as asked:
        reply = await asked.put("/v1/policy", content=body)
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json")
    assert service.told == []


@pytest.mark.parametrize(("error", "status"), [(PolicyRefused("low"), 422), (PolicyConflict("known"), 409)])
async def test_what_is_refused_is_a_problem(service: Service, error: Exception, status: int):
    service.error = error
    async with client(service) as asked:
        assert (await asked.put("/v1/policy", json={})).status_code == status
