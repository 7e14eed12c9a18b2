from contextlib import nullcontext

import httpx
import pytest

from roadwork_serve.errors import (
    BrokenMedia,
    NotARoadworkServer,
    NotReady,
    Overloaded,
    RoadworkError,
    ServerUnreachable,
    StageFailed,
)
from roadwork_serve.miner.remote import HttpCascade
from roadwork_serve.schema import Problem
from tests.journal.made import verdict


def problem(kind: type[RoadworkError]) -> bytes:
    document = Problem(
        type=f"urn:roadwork:problem:{kind.slug}", title=kind.title, status=kind.status, detail="so it is"
    )
    return document.model_dump_json().encode()


async def ask(answer: httpx.Response | Exception, seen: list[httpx.Request] | None = None) -> object:
    def handle(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    cascade = HttpCascade("http://server", "rw_key", httpx.MockTransport(handle))
    try:
        return await cascade.classify(b"picture", 8500, "axon-1", "validator")
    finally:
        await cascade.aclose()


async def test_a_verdict_is_returned_and_the_request_identifies_the_caller() -> None:
    seen: list[httpx.Request] = []
    given = verdict("a", 0.7)
    assert await ask(httpx.Response(200, content=given.model_dump_json()), seen) == given
    (request,) = seen
    assert (request.url.path, request.url.params["deadline_ms"], request.content) == (
        "/v1/classify",
        "8500",
        b"picture",
    )
    assert request.headers["X-Request-Key"] == "validator" and request.headers["X-Request-Id"] == "axon-1"
    assert request.headers["Authorization"] == "Bearer rw_key"


@pytest.mark.parametrize("kind", [BrokenMedia, Overloaded, StageFailed])
async def test_a_problem_is_raised_as_the_error_it_was_made_from(kind: type[RoadworkError]) -> None:
    with pytest.raises(kind, match="so it is"):
        await ask(httpx.Response(kind.status, content=problem(kind)))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.ConnectError("refused"), ServerUnreachable),
        (httpx.ReadTimeout("late"), ServerUnreachable),
        (httpx.Response(200, text="?"), NotARoadworkServer),
    ],
)
async def test_an_unreachable_server_and_a_foreign_server_are_different_errors(
    answer: httpx.Response | Exception, error: type[RoadworkError]
) -> None:
    with pytest.raises(error, match=r"http://server"):
        await ask(answer)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(200, text='{"up": [], "down": []}'), None),
        (httpx.Response(503, content=problem(NotReady)), NotReady),
        (httpx.Response(404, text="?"), NotARoadworkServer),
        (httpx.ConnectError("refused"), ServerUnreachable),
    ],
)
async def test_ready_reflects_the_readiness_of_the_server(
    answer: httpx.Response | Exception, error: type[RoadworkError] | None
) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/readyz"
        if isinstance(answer, Exception):
            raise answer
        return answer

    cascade = HttpCascade("http://server", transport=httpx.MockTransport(handle))
    with pytest.raises(error) if error else nullcontext():
        await cascade.ready()
    await cascade.aclose()
