"""HEAD on the routes that answer GET."""

import httpx
from fastapi import FastAPI

from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.errors import NotReady
from tests.api.test_classify_routes import FakeService


def paths_to_get(app: FastAPI) -> list[str]:
    """Return the paths that answer GET and have no parameters."""
    documented = [path for path, methods in app.openapi()["paths"].items() if "get" in methods and "{" not in path]
    return ["/", "/docs", "/openapi.json", "/console/", "/console/page.js", *documented]


async def test_head_is_get_without_the_body() -> None:
    app = http_app(FakeService())
    paths = paths_to_get(app)
    assert {"/healthz", "/readyz", "/v1/info", "/v1/stats"} <= set(paths)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        for path in paths:
            head, get = await client.head(path), await client.get(path)
            assert (head.status_code, head.content, get.status_code) == (200, b"", 200), path
            changing = {"x-request-id", "date"}
            assert {n: v for n, v in head.headers.items() if n not in changing} == {
                n: v for n, v in get.headers.items() if n not in changing
            }, path


async def test_head_of_what_cannot_be_got_is_refused() -> None:
    service = FakeService()
    service.closed = NotReady("still loading: vlm")
    app = http_app(service)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        for path, status in (("/v1/classify", 405), ("/nowhere", 404), ("/readyz", 503)):
            response = await client.head(path)
            assert (response.status_code, response.content) == (status, b"")
