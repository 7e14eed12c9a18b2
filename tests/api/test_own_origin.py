"""A server without keys and the requests that web pages of other origins make a browser send."""

import httpx
import pytest
from pydantic import ValidationError

from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.profiles.ingress_spec import IngressSpec
from tests.api.test_classify_routes import PROFILE, FakeService, problem

KEYS = (
    '[{name: cam, role: client, sha256: "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"}]'  # of foo
)
ROUTES = [
    ("POST", "/v1/classify"),
    ("POST", "/v1/classify/batch"),
    ("GET", "/v1/info"),
    ("GET", "/v1/stats"),
    ("PUT", "/v1/policy"),
    ("GET", "/v1/policy"),
    ("GET", "/v1/journal"),
    ("GET", "/openapi.json"),
    ("GET", "/a-route-of-the-future"),
]
FOREIGN = [
    {"origin": "http://evil.example"},
    {"origin": "https://127.0.0.1"},
    {"origin": "http://127.0.0.1:9000"},
    {"origin": "http://localhost:8000"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "http://127.0.0.1:8000.evil.example"},
    {"origin": "http://evil.example@127.0.0.1:8000"},
    {"origin": "ftp://127.0.0.1:8000"},
    {"origin": "http://127.0.0.1:8000/"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    {"host": "evil.example"},
    {"host": "evil.example:8000"},
    {"host": "127.0.0.1.evil.example"},
    {"host": "localhost."},
    {"host": "a.localhost"},
    {"host": "evil.example@127.0.0.1"},
    {"host": "127.0.0.1/evil"},
    {"host": ""},
    {"host": "evil.example", "origin": "http://evil.example", "sec-fetch-site": "same-origin"},
    {"host": "road.example"},
]
OWN = [
    {},
    {"host": "localhost:8000"},
    {"host": "LOCALHOST"},
    {"host": "[::1]:8000"},
    {"host": "192.168.1.7:8000"},
    {"origin": "http://127.0.0.1:8000"},
    {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"},
    {"origin": "https://127.0.0.1:8000"},  # behind a proxy with TLS
    {"host": "localhost", "origin": "https://localhost:443"},
    {"sec-fetch-site": "none"},
]


def client(service: FakeService, auth: Authenticator) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(http_app(service, auth)), base_url="http://127.0.0.1:8000", timeout=5
    )


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_keys_a_foreign_request_is_refused_unread(method: str, path: str):
    service = FakeService()

    async def body():
        raise AssertionError("the body was read")
        yield b""

    async with client(service, Authenticator(None)) as asked:
        for headers in FOREIGN:
            reply = await asked.request(method, path, headers=headers, content=body() if method != "GET" else None)
            detail = problem(reply, 403, "forbidden").detail
            assert "ingress.allowed_hosts" in detail and "127.0.0.1" in detail and "with keys" in detail
    assert service.seen == []


async def test_without_keys_programs_and_own_pages_are_answered():
    async with client(FakeService(), Authenticator(None)) as asked:
        for headers in OWN:
            assert (await asked.post("/v1/classify", content=b"photo", headers=headers)).status_code == 200, headers
            assert (await asked.get("/v1/stats", headers=headers)).status_code == 200, headers


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/docs", "/console/page.js"])
async def test_probes_and_pages_are_open_to_links(path: str):
    async with client(FakeService(), Authenticator(None)) as asked:
        for headers in FOREIGN:
            assert (await asked.get(path, headers=headers)).status_code == 200
            assert (await asked.post(path, headers=headers)).status_code == 403


async def test_a_configured_host_name_is_the_servers_own():
    service = FakeService()
    service.profile = PROFILE.model_copy(update={"ingress": IngressSpec(allowed_hosts=("road.example",))})
    async with client(service, Authenticator(None)) as asked:
        own = {"host": "Road.example", "origin": "https://road.example"}
        assert (await asked.get("/v1/stats", headers=own)).status_code == 200
        assert (await asked.get("/v1/stats", headers=own | {"origin": "https://evil.example"})).status_code == 403
        assert (await asked.get("/v1/stats", headers={"host": "evil.example"})).status_code == 403


@pytest.mark.parametrize("host", ["", "http://road.example", "road.example:8000", "Road.example", "*", "road.example."])
def test_a_configured_host_name_is_checked(host: str):
    with pytest.raises(ValidationError, match="without scheme and port"):
        IngressSpec(allowed_hosts=(host,))


async def test_with_keys_the_key_decides():
    auth = Authenticator.from_environment(1, {"ROADWORK_KEYS": KEYS})
    async with client(FakeService(), auth) as asked:
        for headers in FOREIGN:
            assert (await asked.post("/v1/classify", content=b"x", headers=headers)).status_code == 401
        keyed = {"host": "road.example", "x-api-key": "foo"}
        assert (await asked.post("/v1/classify", content=b"x", headers=keyed)).status_code == 200
