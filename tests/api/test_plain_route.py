"""Requests without parameters take a shorter way to the same response."""

from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI, Header, Query, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.routing import Match

from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.api.plain_route import PlainRoute
from tests.api.test_classify_routes import FakeService


class Answer(BaseModel):
    """A response with an alias, and a field that is None."""

    way: str = Field(serialization_alias="Way")
    none: None = None


def dependency(name: Annotated[str | None, Header(alias="X-Of-A-Dependency")] = None) -> None:
    """Take a header, as dependencies of routes may."""


def app() -> FastAPI:
    """Return an application whose responses name the way they took."""
    made = FastAPI()

    async def plain(request: Request) -> Answer:
        return Answer(way="plain")

    @made.post("/answer", dependencies=[Depends(dependency)])
    async def answer(
        query: Annotated[str | None, Query()] = None, header: Annotated[str | None, Header(alias="x-named")] = None
    ) -> Answer:
        return Answer(way="whole")

    (whole,) = (route for route in made.routes if isinstance(route, APIRoute))
    made.router.routes.insert(0, PlainRoute(whole, plain))
    return made


async def way(target: str, headers: dict[str, str]) -> str:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app()), base_url="http://test") as client:
        return (await client.post(target, headers=headers)).json()["Way"]


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "image/jpeg", "X-Request-Id": "a"}])
async def test_a_request_without_parameters_is_plain(headers: dict[str, str]) -> None:
    assert await way("/answer", headers) == "plain"


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/answer?query=1", {}),
        ("/answer?unknown", {}),
        ("/answer", {"X-Named": "1"}),
        ("/answer", {"x-named": ""}),
        ("/answer", {"X-OF-A-DEPENDENCY": "1"}),
    ],
)
async def test_one_with_a_parameter_takes_the_whole_way(target: str, headers: dict[str, str]) -> None:
    assert await way(target, headers) == "whole"


@pytest.mark.parametrize(("method", "path"), [("GET", "/answer"), ("POST", "/answer/"), ("POST", "/another")])
def test_other_methods_and_paths_are_left_to_the_application(method: str, path: str) -> None:
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "query_string": b"", "headers": []}
    assert app().routes[0].matches(scope)[0] is Match.NONE


async def test_it_is_not_in_the_openapi_document_twice() -> None:
    assert list(app().openapi()["paths"]) == ["/answer"]


async def test_both_ways_to_a_verdict_give_the_same_response() -> None:
    service = FakeService()
    transport = httpx.ASGITransport(http_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        parameters = [{}, {"X-Request-Key": "camera 1"}]
        replies = [
            await client.post("/v1/classify", content=b"photo", headers={"X-Request-Id": "one"} | each)
            for each in parameters
        ]
    plain, whole = replies
    assert plain.status_code == 200
    assert plain.content == whole.content
    assert list(plain.headers.items()) == list(whole.headers.items())
    assert [context.key for context in service.contexts] == [None, "camera 1"]
