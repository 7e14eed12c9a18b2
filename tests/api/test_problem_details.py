"""Errors as problem documents: their content and its limits."""

import json
import math
from collections.abc import Awaitable, Callable

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from roadwork_serve.api.problem_details import (
    MAX_DETAIL,
    documented,
    echo,
    install_problem_handlers,
    problem_of,
    response_of,
)
from roadwork_serve.errors import BadRequest, NotReady, Overloaded, RateLimited, RoadworkError, Unauthorised


@pytest.mark.parametrize(
    ("value", "expected"),
    [("soon", "'soon'"), ("a\nb\x1b[31m", "'a\\nb\\x1b[31m'"), ("\ud800", "'\\ud800'"), (7, "7"), (None, "None")],
)
def test_an_echoed_value_is_quoted_on_one_line(value: object, expected: str):
    assert echo(value) == expected


@pytest.mark.parametrize(
    "value", ["a" * 10**6, [["a" * 10**6] * 10**3], {str(at): at for at in range(10**4)}, 10**4_000]
)
def test_an_echoed_value_is_truncated(value: object):
    assert len(echo(value)) < 1_000


def test_a_detail_is_bounded_and_always_json():
    for message in ("a" * 10**6, "\ud800" * 10, "half \udfff a pair"):
        detail = problem_of(BadRequest(message)).detail
        assert len(detail) <= MAX_DETAIL
        assert json.loads(response_of(BadRequest(message)).body)["detail"] == detail
    assert problem_of(BadRequest("a" * 10**6)).detail.endswith("a…")


def test_many_errors_are_summarized():
    error = RequestValidationError(
        [{"loc": ("query", f"name{at}"), "input": "x" * 10**5, "msg": "is wrong"} for at in range(100)]
    )
    detail = problem_of(error).detail
    assert detail.startswith("name0 is 'xxx") and len(detail) <= MAX_DETAIL


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (Unauthorised("a"), {"www-authenticate": "Bearer"}),
        (RateLimited("a", 1.2), {"retry-after": "2"}),
        (Overloaded("a", 0.0), {"retry-after": "1"}),
        (NotReady("a"), {"retry-after": "5"}),
        (HTTPException(405, headers={"Allow": "GET"}), {"allow": "GET"}),
        (BadRequest("a"), {}),
    ],
)
def test_problems_have_their_headers(error: Exception, headers: dict[str, str]):
    response = response_of(error)
    assert {name: value for name, value in response.headers.items() if not name.startswith("content-")} == headers


@pytest.mark.parametrize("error", [Unauthorised("a"), RateLimited("a"), Overloaded("a"), BadRequest("a")])
def test_documented_problems_match_the_responses(error: RoadworkError):
    account = documented(error)[error.status]
    sent = response_of(error, "5f1c9a7e")
    assert account["content"][sent.media_type]["example"] == json.loads(sent.body)
    names = {name.lower() for name in account["headers"]}
    assert names == {name for name in sent.headers if not name.startswith("content-")}
    assert all(math.isfinite(int(sent.headers[name])) for name in names & {"retry-after"})


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("POST", "/things/7", "DELETE, GET, HEAD"), ("GET", "/things", "POST")]
)
async def test_a_wrong_method_is_answered_with_all_methods_of_the_path(method: str, path: str, allowed: str):
    app = FastAPI()
    install_problem_handlers(app)

    @app.middleware("http")
    async def identified(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        request.state.request_id = "r"
        return await call_next(request)

    async def thing() -> None: ...

    for route, verb in (("/things/{name}", "GET"), ("/things/{name}", "DELETE"), ("/things", "POST")):
        app.add_api_route(route, thing, methods=[verb])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        response = await client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
