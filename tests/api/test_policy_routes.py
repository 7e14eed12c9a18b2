"""The policy and status routes over a fake service that records its calls."""

import hashlib
import json
import os

import httpx
import pytest
from fastapi import FastAPI

from roadwork_serve.api.api_keys import ADMIN_TOKEN
from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.api.policy_routes import MAX_POLICY_BYTES, policy_routes
from roadwork_serve.api.policy_store import parse_rollout
from roadwork_serve.api.problem_details import install_problem_handlers
from roadwork_serve.api.status_routes import status_routes
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.errors import PolicyConflict, PolicyRefused
from roadwork_serve.schema import PolicyChange, ReplicaStats, Stats
from roadwork_serve.server_state import PolicyState
from roadwork_serve.state_folder import state_folder
from tests.api.test_classify_routes import FakeService

SECRET = "rw_admin"
KEYS = [
    {"name": "ann", "role": "admin", "sha256": hashlib.sha256(SECRET.encode()).hexdigest()},
    {"name": "cam", "role": "client", "sha256": hashlib.sha256(b"rw_client").hexdigest()},
]


def policy(version: str) -> dict[str, object]:
    steps = [{"stage": "backbone", "exit": [0.1, 0.9]}]
    return {"version": version, "photo": steps, "clip": steps}


class Service:
    def __init__(self) -> None:
        self.put: list[tuple[str, str]] = []
        self.error: Exception | None = None

    async def put_policy(self, rollout: Rollout, author: str) -> PolicyChange:
        if self.error:
            raise self.error
        self.put.append((rollout.policy.version, author))
        return PolicyChange(revision=2, version="b", replicas=2)

    async def roll_back(self, author: str) -> PolicyChange:
        if self.error:
            raise self.error
        return PolicyChange(revision=3, version="a", replicas=2)

    async def policy(self) -> PolicyState:
        return PolicyState(revision=1, version="a", rollout=parse_rollout(policy("a")), history=[])

    async def stats(self) -> Stats:
        load = ReplicaStats(
            replica="r", in_flight=0, decoding=0, policy_version="a", policy_revision=1, degradation_level=0, stages=[]
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
    guard = Authenticator.from_environment(1, {"ROADWORK_KEYS": json.dumps(keys)} if keys else os.environ)
    for routes in (*policy_routes(service, guard), *status_routes(service, guard)):  # type: ignore[arg-type]
        app.include_router(routes)
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", headers={"X-API-Key": key} if key else {}
    )


async def test_an_admin_puts_a_policy_and_rolls_it_back(service: Service):
    async with client(service) as asked:
        reply = await asked.put("/v1/policy", json=policy("b"))
        assert (reply.status_code, reply.json()) == (200, {"revision": 2, "version": "b", "replicas": 2})
        assert service.put == [("b", "ann")]
        assert (await asked.post("/v1/policy/rollback")).json()["version"] == "a"
        assert (await asked.get("/v1/policy")).json()["version"] == "a"
        assert (await asked.get("/v1/stats")).json()["replicas"][0]["replica"] == "r"


@pytest.mark.parametrize(("key", "keys", "status"), [("", KEYS, 401), ("rw_no", KEYS, 401), ("rw_client", KEYS, 403)])
async def test_only_admins_may_change_the_policy(service: Service, key: str, keys: object, status: int):
    async with client(service, key, keys) as asked:
        assert (await asked.put("/v1/policy", json=policy("b"))).status_code == status
        assert (await asked.post("/v1/policy/rollback")).status_code == status
    assert service.put == []


async def test_without_keys_policy_changes_need_the_admin_token(service: Service):
    async with client(service, "", None) as asked:
        reply = await asked.put("/v1/policy", json=policy("b"))
        assert reply.status_code == 401
        assert "`roadwork console` prints a link" in reply.json()["detail"]
        assert (await asked.get("/v1/stats")).status_code == 200
    token = (state_folder() / ADMIN_TOKEN).read_text()
    async with client(service, token, None) as asked:
        assert (await asked.put("/v1/policy", json=policy("b"))).status_code == 200
    assert service.put == [("b", "local")]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"version: b", 400), (b"[" * 100_000, 400), (b'{"a": "' + b"x" * MAX_POLICY_BYTES + b'"}', 413)],
)
async def test_an_invalid_body_is_a_problem(service: Service, body: bytes, status: int):
    async with client(service) as asked:
        reply = await asked.put("/v1/policy", content=body)
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json")
    assert service.put == []


@pytest.mark.parametrize(("error", "status"), [(PolicyRefused("low"), 422), (PolicyConflict("known"), 409)])
async def test_a_refused_policy_is_a_problem(service: Service, error: Exception, status: int):
    service.error = error
    async with client(service) as asked:
        assert (await asked.put("/v1/policy", json=policy("b"))).status_code == status


async def test_an_invalid_policy_is_rejected_before_it_reaches_the_store(service: Service):
    async with client(service) as asked:
        reply = await asked.put("/v1/policy", json=policy("b") | {"prior": 2})
    assert (reply.status_code, service.put) == (422, [])
    assert "prior is 2; it should be less than or equal to 1" in reply.json()["detail"]


def test_openapi_describes_policies_by_their_schema():
    app = http_app(FakeService(), Authenticator(None))
    for routes in policy_routes(Service(), Authenticator(None)):
        app.include_router(routes)
    document = app.openapi()
    schemas = document["components"]["schemas"]
    body = document["paths"]["/v1/policy"]["put"]["requestBody"]["content"]["application/json"]["schema"]
    names = [each["$ref"].rpartition("/")[2] for each in body["anyOf"]]
    assert names == ["Policy", "Rollout"]
    assert schemas["Rollout"]["properties"]["policy"]["$ref"].endswith("/Policy")
    assert schemas["Policy"]["required"] == ["version", "photo", "clip"]
