"""Errors as RFC 9457 problem documents."""

import logging
import math
import reprlib
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path

from roadwork_serve.errors import BadRequest, RoadworkError, Unauthorised, UnsupportedEncoding
from roadwork_serve.schema import Problem

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5.0  # for errors without a time of their own
MAX_DETAIL = 1_000  # characters

_RETRYABLE = (429, 503)
# Python 3.13 has other names for these; the types of problems do not depend on it.
_PHRASES = {
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    416: "Requested Range Not Satisfiable",
    422: "Unprocessable Entity",
}
_ECHO = reprlib.Repr()
_ECHO.maxstring = _ECHO.maxother = 80  # characters

_LOG = logging.getLogger("ray.serve.roadwork.http")


def problem_of(error: Exception, request_id: str | None = None) -> Problem:
    """Return the problem document of an error. An unexpected error is reported without its message."""
    match error:
        case RoadworkError():
            return _problem(error.slug, error.title, error.status, str(error), request_id)
        case HTTPException():
            phrase = _PHRASES.get(error.status_code) or HTTPStatus(error.status_code).phrase
            slug = phrase.lower().replace(" ", "-")
            return _problem(slug, phrase, error.status_code, str(error.detail), request_id)
        case RequestValidationError():
            detail = "; ".join(f"{each['loc'][-1]} is {echo(each['input'])}: {each['msg']}" for each in error.errors())
            return problem_of(BadRequest(detail), request_id)
        case ClientDisconnect():
            return problem_of(BadRequest("the connection closed before the request was complete"), request_id)
        case _:
            return problem_of(RoadworkError("unexpected error; the server's log has the details"), request_id)


def response_of(error: Exception, request_id: str | None = None) -> Response:
    """Return the problem document as a response, with Retry-After if a retry can help."""
    problem = problem_of(error, request_id)
    headers = dict(getattr(error, "headers", None) or {})
    if problem.status in _RETRYABLE:
        headers["Retry-After"] = str(max(1, math.ceil(getattr(error, "retry_after_s", RETRY_AFTER_S))))
    if isinstance(error, Unauthorised):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, UnsupportedEncoding):
        headers["Accept-Encoding"] = "identity"  # RFC 9110, 15.5.16
    return Response(problem.model_dump_json(exclude_none=True), problem.status, headers, MEDIA_TYPE)


def echo(value: object) -> str:
    """Return what a client sent in a form that is safe to repeat: quoted, short, on one line."""
    return _ECHO.repr(value)


def install_problem_handlers(app: FastAPI) -> None:
    """Register handlers that turn every error of the app into a problem document."""

    async def expected(request: Request, error: Exception) -> Response:
        allowed = None
        if isinstance(error, HTTPException) and error.detail == HTTPStatus(error.status_code).phrase:  # Starlette's
            path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
            if error.status_code == HTTPStatus.NOT_FOUND:
                error = HTTPException(404, _no_route(app, path))
            elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
                allowed = _methods(app, path) or (error.headers or {}).get("Allow", "GET")
                error = HTTPException(405, f"this route has no method {echo(request.method)}; use {allowed}")
        response = response_of(error, request.state.request_id)
        if allowed is not None:
            response.headers["Allow"] = allowed
        return response

    async def unexpected(request: Request, error: Exception) -> Response:
        _LOG.error("request %s failed", request.state.request_id, exc_info=error)
        return response_of(error, request.state.request_id)

    for kind in (RoadworkError, HTTPException, RequestValidationError, ClientDisconnect):
        app.add_exception_handler(kind, expected)
    app.add_exception_handler(Exception, unexpected)


def _no_route(app: FastAPI, path: str) -> str:
    """Return that there is no such route, with the one that was meant if only slashes or capitals differ."""
    plain = "/" + "/".join(part for part in path.lower().split("/") if part)
    meant = next((route for route in app.openapi()["paths"] if route.lower() == plain), None)
    return "there is no such route; " + (f"send this to {meant}" if meant else "/openapi.json lists the routes")


def _methods(app: FastAPI, path: str) -> str:
    """Return the methods of a path for an Allow header, of which Starlette lists those of a single route."""
    paths = app.openapi()["paths"]
    fitting = (methods for template, methods in paths.items() if compile_path(template)[0].match(path))
    methods = {method.upper() for method in next(fitting, {})}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def documented(*errors: RoadworkError) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses for the problems of an operation, with an example of each."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        error.status: {
            "description": error.title,
            "headers": _headers(error.status),
            "content": {MEDIA_TYPE: {"schema": schema, "example": problem_of(error, "5f1c9a7e").model_dump()}},
        }
        for error in errors
    }


def _headers(status: int) -> dict[str, Any]:
    if status == Unauthorised.status:
        return {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
    if status in _RETRYABLE:
        description = "Seconds to wait before a retry."
        return {
            "Retry-After": {"required": True, "description": description, "schema": {"type": "integer", "minimum": 1}}
        }
    return {}


def _problem(slug: str, title: str, status: int, detail: str, request_id: str | None) -> Problem:
    detail = detail.encode("utf-8", "replace").decode()  # half a surrogate pair is not valid JSON
    if len(detail) > MAX_DETAIL:
        detail = detail[: MAX_DETAIL - 1] + "…"
    return Problem(type=f"urn:roadwork:problem:{slug}", title=title, status=status, detail=detail, instance=request_id)
