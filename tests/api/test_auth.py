"""Authentication and rate limits, over a service that answers everything."""

import base64
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request

from roadwork_serve.api.api_keys import ADMIN_TOKEN, TEXT_VARIABLE, ApiKeyStore, Keyring, new_key
from roadwork_serve.api.auth import MAX_HEADER_BYTES, MAX_HEADERS, MAX_TARGET_BYTES, Authenticator
from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.errors import ConfigError
from tests.api.test_classify_routes import FakeService, problem

CLIENT, CLIENT_KEPT = new_key("dashcams", "client")
ADMIN, ADMIN_KEPT = new_key("boss", "admin")
SLOW, SLOW_KEPT = new_key("slow", "client", 6)
RING = Keyring((CLIENT_KEPT, ADMIN_KEPT, SLOW_KEPT))
GUARDED = [("POST", "/v1/classify"), ("POST", "/v1/classify/batch"), ("GET", "/v1/info")]


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Body:
    """A request body that records whether it was read."""

    def __init__(self) -> None:
        self.read = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.read = True
        yield b"photo"


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def with_admin_routes(app: FastAPI, guard: Authenticator) -> FastAPI:
    routes = guard.router("admin", "test")

    @routes.put("/v1/policy")
    async def put(request: Request) -> str:
        return (await request.body()).decode()

    app.include_router(routes)
    return app


def client_of(service: FakeService, guard: Authenticator) -> httpx.AsyncClient:
    app = with_admin_routes(http_app(service, guard), guard)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


@pytest.fixture
async def client(service: FakeService, clock: Clock) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(service, Authenticator(ApiKeyStore(RING), clock=clock)) as client:
        yield client


@pytest.fixture
async def open_client(service: FakeService) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(service, Authenticator(None)) as client:
        yield client


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def send(client: httpx.AsyncClient, method: str, path: str, **headers: str) -> httpx.Response:
    if path.endswith("batch"):
        return await client.request(method, path, files={"file": b"photo"}, headers=headers)
    return await client.request(method, path, content=b"photo" if method != "GET" else b"", headers=headers)


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "headers",
    [
        bearer(CLIENT),
        {"authorization": f"bearer  {CLIENT} "},
        {"x-api-key": CLIENT},
        bearer(ADMIN),
        {"authorization": "Basic dXNlcjpwYXNz", "x-api-key": CLIENT},
    ],
)
async def test_a_known_key_is_accepted(client: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]):
    assert (await send(client, method, path, **headers)).status_code == 200


@pytest.mark.parametrize(("method", "path"), [*GUARDED, ("PUT", "/v1/policy")])
@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "send a key as"),
        ({"authorization": ""}, "send a key as"),
        ({"authorization": "Bearer"}, "send a key as"),
        ({"authorization": CLIENT}, "send a key as"),
        ({"authorization": f"Basic {CLIENT}"}, "send a key as"),
        ({"x-api-key": " "}, "send a key as"),
        (bearer(CLIENT + "x"), "unknown"),
        (bearer("rw_" + "é" * 43), "unknown"),
        ({"x-api-key": CLIENT.lower()}, "unknown"),
        ({"authorization": "Bearer wrong", "x-api-key": CLIENT}, "unknown"),
    ],
)
async def test_any_other_key_gets_a_401_with_instructions(
    client: httpx.AsyncClient, service: FakeService, method: str, path: str, headers: dict[str, str], message: str
):
    raw = {name: value.encode() for name, value in headers.items()}
    response = await client.request(method, path, headers=raw)
    assert message in problem(response, 401, "unauthorised").detail
    assert response.headers["www-authenticate"] == "Bearer"
    assert CLIENT not in response.text
    assert service.seen == []


async def test_the_body_of_a_rejected_request_is_not_read(client: httpx.AsyncClient):
    for path, headers, status in (
        ("/v1/classify", {}, 401),
        ("/v1/classify/batch", {"content-type": "multipart/form-data; boundary=x"}, 401),
        ("/v1/policy", bearer(CLIENT), 403),
    ):
        body = Body()
        response = await client.request("PUT" if "policy" in path else "POST", path, content=body, headers=headers)
        assert (response.status_code, body.read) == (status, False)
    body = Body()
    assert (await client.post("/v1/classify", content=body, headers=bearer(CLIENT))).status_code == 200
    assert body.read


async def test_the_key_is_checked_before_anything_else(client: httpx.AsyncClient):
    wrong = {"params": {"deadline_ms": "soon"}, "content": b"x"}
    assert "key" in problem(await client.post("/v1/classify", **wrong), 401, "unauthorised").detail
    document = problem(await client.post("/v1/classify", headers=bearer(CLIENT), **wrong), 400, "bad-request")
    assert "deadline_ms" in document.detail


async def test_admin_routes_require_an_admin_key(client: httpx.AsyncClient):
    response = await client.put("/v1/policy", content=b"x", headers=bearer(CLIENT))
    assert "role client" in problem(response, 403, "forbidden").detail
    response = await client.put("/v1/policy", content=b"x", headers=bearer(ADMIN))
    assert (response.status_code, response.json()) == (200, "x")


async def test_the_allow_header_lists_every_method_of_a_path(service: FakeService):
    guard = Authenticator(ApiKeyStore(RING))
    routes = guard.router("client", "test")

    @routes.get("/v1/policy")
    async def get() -> str:
        return "x"

    app = with_admin_routes(http_app(service, guard), guard)
    app.include_router(routes)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        response = await client.delete("/v1/policy")
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "GET, HEAD, PUT"


async def test_without_keys_clients_are_accepted_and_admins_need_the_token(service: FakeService, tmp_path: Path):
    guard = Authenticator.from_environment(1, {"ROADWORK_STATE": str(tmp_path / "state")})
    file = tmp_path / "state" / ADMIN_TOKEN
    assert file.stat().st_mode & 0o777 == 0o600
    async with client_of(service, guard) as asked:
        for method, path in GUARDED:
            assert (await send(asked, method, path)).status_code == 200
            assert (await send(asked, method, path, **bearer(CLIENT))).status_code == 200
        for headers in ({}, bearer(ADMIN)):
            document = problem(await asked.put("/v1/policy", headers=headers), 401, "unauthorised")
            assert "`roadwork console` prints a link" in document.detail and str(tmp_path) not in document.detail
        assert (await asked.put("/v1/policy", headers=bearer(file.read_text()))).status_code == 200
    again = Authenticator.from_environment(1, {"ROADWORK_STATE": str(tmp_path / "state")})
    async with client_of(service, again) as asked:
        assert (await asked.put("/v1/policy", headers=bearer(file.read_text()))).status_code == 200


async def test_without_keys_or_a_token_there_is_no_admin(open_client: httpx.AsyncClient):
    assert (await send(open_client, *GUARDED[0])).status_code == 200
    problem(await open_client.put("/v1/policy", headers=bearer(ADMIN)), 403, "forbidden")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json", "/"])
async def test_some_paths_need_no_key(client: httpx.AsyncClient, path: str):
    assert (await client.get(path)).status_code == 200


async def test_a_rate_limit_is_enforced_and_refills_evenly(client: httpx.AsyncClient, clock: Clock):
    async def ask() -> httpx.Response:
        return await client.get("/v1/info", headers=bearer(SLOW))

    assert [(await ask()).status_code for _ in range(6)] == [200] * 6
    response = await ask()
    assert "6 requests a minute" in problem(response, 429, "rate-limited").detail
    assert response.headers["retry-after"] == "10"
    clock.now_s += 9.5
    assert (await ask()).headers["retry-after"] == "1"
    clock.now_s += 0.5
    assert [(await ask()).status_code for _ in range(2)] == [200, 429]
    clock.now_s += 3600
    assert [(await ask()).status_code for _ in range(7)] == [200] * 6 + [429]
    assert (await client.get("/v1/info", headers=bearer(CLIENT))).status_code == 200


async def test_a_batch_counts_as_its_files(client: httpx.AsyncClient, service: FakeService):
    async def ask(files: int) -> httpx.Response:
        return await client.post("/v1/classify/batch", files=[("file", b"photo")] * files, headers=bearer(SLOW))

    assert [(await ask(3)).status_code, (await ask(2)).status_code] == [200, 200]
    problem(await ask(2), 429, "rate-limited")
    assert len(service.seen) == 5


@pytest.mark.parametrize(("replicas", "allowed"), [(1, 6), (2, 3), (4, 1), (100, 1)])
async def test_replicas_share_a_rate(service: FakeService, clock: Clock, replicas: int, allowed: int):
    async with client_of(service, Authenticator(ApiKeyStore(RING), replicas, clock)) as client:
        answers = [(await client.get("/v1/info", headers=bearer(SLOW))).status_code for _ in range(allowed + 1)]
    assert answers == [200] * allowed + [429]


async def test_a_batch_above_the_rate_limit_is_rejected_with_the_reason(service: FakeService, clock: Clock):
    async with client_of(service, Authenticator(ApiKeyStore(RING), 3, clock)) as client:
        response = await client.post("/v1/classify/batch", files=[("file", b"photo")] * 3, headers=bearer(SLOW))
        assert "shared by 3 replicas" in problem(response, 429, "rate-limited").detail
        clock.now_s += 60
        response = await client.post("/v1/classify/batch", files=[("file", b"photo")] * 2, headers=bearer(SLOW))
        assert response.status_code == 200


async def test_a_key_is_revoked_and_another_accepted_within_a_second(
    service: FakeService, clock: Clock, tmp_path: Path
):
    file = tmp_path / "keys.yaml"
    file.write_text(CLIENT_KEPT.entry())
    async with client_of(service, Authenticator(ApiKeyStore.from_file(file), clock=clock)) as client:

        async def statuses() -> list[int]:
            return [(await client.get("/v1/info", headers=bearer(secret))).status_code for secret in (CLIENT, ADMIN)]

        assert await statuses() == [200, 401]
        new = file.with_suffix(".new")
        new.write_text(ADMIN_KEPT.entry() + "\n")
        new.replace(file)
        assert await statuses() == [200, 401]
        clock.now_s += 1
        assert await statuses() == [401, 200]
        file.write_text("- {")
        clock.now_s += 1
        assert await statuses() == [401, 200]


async def test_a_rate_survives_a_change_of_the_file(service: FakeService, clock: Clock, tmp_path: Path):
    file = tmp_path / "keys.yaml"
    file.write_text(SLOW_KEPT.entry())
    async with client_of(service, Authenticator(ApiKeyStore.from_file(file), clock=clock)) as client:
        for _ in range(6):
            await client.get("/v1/info", headers=bearer(SLOW))
        file.write_text(SLOW_KEPT.entry().replace("per_minute: 6", "per_minute: 12"))
        clock.now_s += 1
        answers = [(await client.get("/v1/info", headers=bearer(SLOW))).status_code for _ in range(7)]
    assert answers == [200] * 6 + [429]


def test_an_error_in_the_keys_prevents_the_start(service: FakeService, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(TEXT_VARIABLE, "- {name: dashcams}")
    with pytest.raises(ConfigError, match=r"ROADWORK_KEYS: entry 1 \(dashcams\): role is missing"):
        http_app(service)


async def test_the_environment_names_the_keys(service: FakeService, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(TEXT_VARIABLE, CLIENT_KEPT.entry())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(http_app(service)), base_url="http://127.0.0.1"
    ) as client:
        assert (await client.get("/v1/info")).status_code == 401
        assert (await client.get("/v1/info", headers=bearer(CLIENT))).status_code == 200


async def test_openapi_declares_keys_and_the_errors_of_rejected_ones(
    client: httpx.AsyncClient, open_client: httpx.AsyncClient
):
    spec = (await client.get("/openapi.json")).json()
    schemes = spec["components"]["securitySchemes"]
    assert (schemes["bearer"]["type"], schemes["bearer"]["scheme"]) == ("http", "bearer")
    assert (schemes["header"]["in"], schemes["header"]["name"]) == ("header", "X-API-Key")
    for method, path in [*GUARDED, ("PUT", "/v1/policy")]:
        route = spec["paths"][path][method.lower()]
        assert route["security"] == [{"bearer": []}, {"header": []}]
        assert {"401", "403", "429"} <= set(route["responses"])
        assert {"WWW-Authenticate"} == set(route["responses"]["401"]["headers"])
        assert {"Retry-After"} == set(route["responses"]["429"]["headers"])
    assert "security" not in spec["paths"]["/healthz"]["get"]
    spec = (await open_client.get("/openapi.json")).json()
    assert {} in spec["paths"]["/v1/classify"]["post"]["security"]
    assert {} not in spec["paths"]["/v1/policy"]["put"]["security"]


async def test_no_log_line_and_no_response_contains_a_key_or_media(
    client: httpx.AsyncClient, service: FakeService, caplog: pytest.LogCaptureFixture
):
    service.error = ValueError("unforeseen")
    media = b"\xff\xd8\xff" + b"secret picture" * 10
    answers: list[str] = []
    with caplog.at_level(logging.DEBUG):
        for secret in (CLIENT, ADMIN, "rw_" + "x" * 43):
            for headers in (bearer(secret), {"x-api-key": secret}):
                for path in ("/v1/classify", f"/v1/classify?deadline_ms={'9' * 500}", "/v1/policy", "/nowhere"):
                    try:
                        answers.append((await client.post(path, content=media, headers=headers)).text)
                    except ValueError:
                        answers.append("")
    output = caplog.text + "".join(answers)
    assert "unforeseen" in caplog.text
    assert not any(secret in output for secret in (CLIENT, ADMIN, "x" * 43, "secret picture"))
    assert base64.b64encode(media[:12]).decode() not in output


@pytest.mark.parametrize(
    ("extra", "status"),
    [
        ({f"x-{at}": "1" for at in range(MAX_HEADERS - 10)}, 200),
        ({f"x-{at}": "1" for at in range(MAX_HEADERS + 1)}, 431),
        ({"x-long": "a" * (MAX_HEADER_BYTES - 1_000)}, 200),
        ({"x-long": "a" * MAX_HEADER_BYTES}, 431),
        ({f"x-{at}": "a" * 2_000 for at in range(20)}, 431),
    ],
)
@pytest.mark.parametrize("path", ["/healthz", "/v1/info", "/openapi.json"])
async def test_absurd_headers_are_rejected(open_client: httpx.AsyncClient, path: str, extra: dict, status: int):
    response = await open_client.get(path, headers=extra)
    assert response.status_code == status
    if status == 431:
        assert "send at most 64 of 32,768 bytes" in problem(response, 431, "headers-too-large").detail
        assert "a" * 33 not in response.text


async def test_absurd_paths_and_queries_are_rejected_and_not_repeated(open_client: httpx.AsyncClient):
    long = "a" * MAX_TARGET_BYTES
    for target in (f"/{long}", f"/v1/info?{long}", f"/v1/classify?deadline_ms={long}"):
        response = await open_client.get(target)
        document = problem(response, 414, "request-uri-too-long")
        assert "8,192" in document.detail and "a" * 33 not in response.text
    response = await open_client.post("/v1/classify", params={"deadline_ms": "b" * 4_000}, content=b"x")
    assert len(problem(response, 400, "bad-request").detail) < 300
    response = await open_client.get(f"/{'c' * 4_000}")
    assert "ccc" not in json.dumps(problem(response, 404, "not-found").model_dump())
