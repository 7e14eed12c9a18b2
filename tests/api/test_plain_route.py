"""Requests without parameters take a shorter way to the same response."""

import re
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI, Header, Query, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.routing import Match

from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.api.plain_route import PlainRoute
from roadwork_serve.errors import Overloaded
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
        query: Annotated[str | None, Query()] = None,
        header: Annotated[str | None, Header(alias="x-named")] = None,
        simple: Annotated[str | None, Header(alias="X-Simple")] = None,
    ) -> Answer:
        return Answer(way="whole")

    (whole,) = (route for route in made.routes if isinstance(route, APIRoute))
    made.router.routes.insert(0, PlainRoute(whole, plain, {b"x-simple": re.compile(rb"[a-z]+")}))
    return made


async def way(target: str, headers: dict[str, str] | list[tuple[str, str]]) -> str:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app()), base_url="http://test") as client:
        return (await client.post(target, headers=headers)).json()["Way"]


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "image/jpeg", "X-Request-Id": "a"}, {"X-SIMPLE": "name"}])
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
        ("/answer", {"X-Simple": "two words"}),
        ("/answer", {"X-Simple": "name", "X-Named": "1"}),
        ("/answer", [("X-Simple", "name"), ("X-Simple", "name")]),
        ("/answer?query=1", {"X-Simple": "name"}),
    ],
)
async def test_one_with_a_parameter_takes_the_whole_way(
    target: str, headers: dict[str, str] | list[tuple[str, str]]
) -> None:
    assert await way(target, headers) == "whole"


@pytest.mark.parametrize(("method", "path"), [("GET", "/answer"), ("POST", "/answer/"), ("POST", "/another")])
def test_other_methods_and_paths_are_left_to_the_application(method: str, path: str) -> None:
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "query_string": b"", "headers": []}
    assert app().routes[0].matches(scope)[0] is Match.NONE


async def test_it_is_not_in_the_openapi_document_twice() -> None:
    assert list(app().openapi()["paths"]) == ["/answer"]


@pytest.mark.parametrize(
    ("error", "status"), [(None, 200), (Overloaded("8 items wait", 2.0), 503), (ZeroDivisionError(), 500)]
)
@pytest.mark.parametrize(
    ("name", "recorded"), [(None, ""), ("photo 1.jpg", "photo 1.jpg"), ("a-b_(2)+.JPEG", "a-b_(2)+.JPEG")]
)
async def test_both_ways_give_the_same_response(
    error: Exception | None, status: int, name: str | None, recorded: str
) -> None:
    service = FakeService()
    service.error = error
    made = http_app(service)
    plain_route = next(route for route in made.router.routes if isinstance(route, PlainRoute))
    transport = httpx.ASGITransport(made, raise_app_exceptions=False)
    headers = {"X-Request-Id": "one"} | ({} if name is None else {"X-File-Name": name})
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        plain = await client.post("/v1/classify", content=b"photo", headers=headers)
        made.router.routes.remove(plain_route)
        whole = await client.post("/v1/classify", content=b"photo", headers=headers)
    assert plain.status_code == status
    assert plain.content == whole.content
    assert list(plain.headers.items()) == list(whole.headers.items())
    assert [context.filename for context in service.contexts] == [recorded, recorded]


@pytest.mark.parametrize("name", ["Stra%C3%9Fe.jpg", "a/b.jpg", " a.jpg", "a.jpg ", "", "a" * 256, "a\tb", '"a.jpg"'])
def test_other_names_take_the_whole_way(name: str) -> None:
    (route,) = (each for each in http_app(FakeService()).router.routes if isinstance(each, PlainRoute))
    scope = {"type": "http", "method": "POST", "path": "/v1/classify", "root_path": "", "query_string": b""}
    assert route.matches({**scope, "headers": []})[0] is Match.FULL
    assert route.matches({**scope, "headers": [(b"x-file-name", name.encode())]})[0] is Match.NONE
