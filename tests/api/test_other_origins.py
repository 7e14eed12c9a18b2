"""Pages of other origins that the configuration lets in (CORS)."""

from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import ValidationError

from roadwork_serve.api.api_keys import ApiKeyStore, Keyring, new_key
from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.errors import Overloaded
from roadwork_serve.profiles.ingress_spec import IngressSpec
from tests.api.test_classify_routes import PROFILE, FakeService

APP = "https://app.example"
CROSS = {"origin": APP, "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}
ASKED = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-api-key"}
SECRET, KEY = new_key("page", "client")


def service_for(*origins: str) -> FakeService:
    service = FakeService()
    service.profile = PROFILE.model_copy(update={"ingress": IngressSpec(origins=origins)})
    return service


@pytest.fixture(params=["without keys", "with keys"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    keys = None if request.param == "without keys" else ApiKeyStore(Keyring((KEY,)))
    app = http_app(service_for(APP, "http://localhost:5173"), Authenticator(keys))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        client.headers["x-api-key"] = SECRET
        yield client


@pytest.mark.parametrize("origin", [APP, "http://localhost:5173"])
async def test_a_page_of_a_named_origin_sends_photos_and_reads_verdicts(client: httpx.AsyncClient, origin: str) -> None:
    preflight = await client.options("/v1/classify", headers=CROSS | ASKED | {"origin": origin})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == origin
    assert {"POST", "DELETE"} <= set(preflight.headers["access-control-allow-methods"].split(", "))
    assert preflight.headers["access-control-allow-headers"] == ASKED["access-control-request-headers"]
    response = await client.post("/v1/classify", content=b"photo", headers=CROSS | {"origin": origin})
    assert response.status_code == 200 and response.json()["label"] == "roadwork"
    assert response.headers["access-control-allow-origin"] == origin
    assert "origin" in response.headers["vary"].lower()
    assert "X-Request-Id" in response.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in response.headers


async def test_a_page_reads_problems_too(client: httpx.AsyncClient) -> None:
    for response in (
        await client.get("/nowhere", headers=CROSS),
        await client.post("/v1/classify", content=b"", headers=CROSS | {"content-encoding": "br"}),
    ):
        assert response.status_code in (404, 415) and response.headers["access-control-allow-origin"] == APP


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://app.example", "https://app.example:8443", "https://app.example.evil", "null"],
)
async def test_pages_of_other_origins_read_nothing(client: httpx.AsyncClient, origin: str) -> None:
    for response in (
        await client.options("/v1/classify", headers=CROSS | ASKED | {"origin": origin}),
        await client.post("/v1/classify", content=b"photo", headers=CROSS | {"origin": origin}),
        await client.get("/v1/info", headers=[("origin", APP), ("origin", origin)]),
    ):
        assert not [name for name in response.headers if name.startswith("access-control-")]


async def test_an_own_origin_check_remains_without_keys() -> None:
    app = http_app(service_for(APP), Authenticator(None))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000") as client:
        for headers in (
            {"origin": "https://evil.example"},
            {"origin": APP, "host": "evil.example"},  # DNS rebinding
            {"sec-fetch-site": "cross-site"},
        ):
            response = await client.post("/v1/classify", content=b"photo", headers=headers)
            assert response.status_code == 403 and "ingress.origins" in response.json()["detail"]
        assert (await client.post("/v1/classify", content=b"photo", headers=CROSS)).status_code == 200


async def test_no_origin_is_let_in_by_default() -> None:
    service = FakeService()
    service.error = Overloaded("a")
    app = http_app(service, Authenticator(ApiKeyStore(Keyring((KEY,)))))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000") as client:
        preflight = await client.options("/v1/classify", headers=CROSS | ASKED)
        assert preflight.status_code == 405 and "access-control-allow-origin" not in preflight.headers


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "app.example",
        "https://app.example/",
        "https://App.example",
        "null",
        "https://app.example:443",
        "http://a:80",
    ],
)
def test_what_no_browser_sends_is_no_origin(origin: str) -> None:
    with pytest.raises(ValidationError, match="no origin"):
        IngressSpec(origins=(origin,))
    assert IngressSpec(origins=("http://localhost:8080", "https://[::1]:80")).origins
