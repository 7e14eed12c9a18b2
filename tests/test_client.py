"""The public client, synchronous and asynchronous, over made-up responses."""

import asyncio
import inspect
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadwork_serve.api.upload import filename_of_header
from roadwork_serve.client import KEY_VARIABLE, AsyncClient, Client, Retry
from roadwork_serve.errors import (
    BadRequest,
    BrokenMedia,
    JournalDown,
    NotARoadworkServer,
    NotFound,
    NotReady,
    Overloaded,
    PolicyConflict,
    RateLimited,
    RoadworkError,
    ServerUnreachable,
    StageFailed,
    Unauthorised,
)
from roadwork_serve.schema import BatchEntry, BatchResult, Health, JournalPage, PolicyChange, Problem, Stats
from tests.journal.made import verdict

URL = "http://server:1"
GIVEN = verdict("a", 0.7)
Call = Callable[..., Any]
Response = httpx.Response | Exception


class Server:
    """Returns the responses one after the other, repeats the last one, and records the requests."""

    def __init__(self, *responses: Response) -> None:
        self.responses = list(responses)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        response = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
        if isinstance(response, Exception):
            raise response
        return httpx.Response(response.status_code, headers=response.headers, content=response.content)


def call_sync(server: Server, method: str, *args: Any, settings: dict[str, Any] | None = None, **more: Any) -> Any:
    with Client(URL, transport=httpx.MockTransport(server), **(settings or {})) as client:
        return getattr(client, method)(*args, **more)


def call_async(server: Server, method: str, *args: Any, settings: dict[str, Any] | None = None, **more: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(URL, transport=httpx.MockTransport(server), **(settings or {})) as client:
            return await getattr(client, method)(*args, **more)

    return asyncio.run(run())


@pytest.fixture(params=[call_sync, call_async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    return request.param


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses before repeated requests, which take no time."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(time, "sleep", found.append)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    return found


def problem(kind: type[RoadworkError], retry_after: str | None = None) -> httpx.Response:
    body = Problem(type=f"urn:roadwork:problem:{kind.slug}", title=kind.title, status=kind.status, detail="so it is")
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return httpx.Response(kind.status, text=body.model_dump_json(), headers=headers)


def ok(model: Any) -> httpx.Response:
    return httpx.Response(200, text=model.model_dump_json())


def test_a_photo_is_sent_with_its_deadline_its_names_and_the_key(call: Call, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"picture")
    server = Server(ok(GIVEN))
    names = {"deadline_ms": 2000, "request_key": "camera 1", "request_id": "r-1"}
    for media in (b"picture", tmp_path / "photo.jpg"):
        assert call(server, "classify", media, settings={"api_key": "rw_key"}, **names) == GIVEN
    for request in server.requests:
        assert (request.method, str(request.url)) == ("POST", f"{URL}/v1/classify?deadline_ms=2000")
        assert (request.content, request.headers["Content-Type"]) == (b"picture", "application/octet-stream")
        assert (request.headers["X-Request-Key"], request.headers["X-Request-Id"]) == ("camera 1", "r-1")
        assert request.headers["Authorization"] == "Bearer rw_key"


def test_the_key_comes_from_the_environment_unless_one_is_given(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "rw_environment")
    server = Server(ok(Health()))
    call(server, "health")
    call(server, "health", settings={"api_key": "rw_given"})
    call(server, "health", settings={"api_key": ""})
    sent = [request.headers.get("Authorization") for request in server.requests]
    assert sent == ["Bearer rw_environment", "Bearer rw_given", None]


def test_a_batch_is_one_form_with_the_names_of_the_files(call: Call, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"first")
    result = BatchResult(results=[BatchEntry(filename="a.jpg", verdict=GIVEN)])
    server = Server(ok(result))
    assert call(server, "classify_batch", [tmp_path / "a.jpg", ("b.mp4", b"second")], deadline_ms=900) == result
    (request,) = server.requests
    assert request.url.path == "/v1/classify/batch" and request.url.params["deadline_ms"] == "900"
    assert request.headers["Content-Type"].startswith("multipart/form-data; boundary=")
    for part in (b'filename="a.jpg"', b"first", b'filename="b.mp4"', b"second"):
        assert part in request.content


def test_a_policy_may_be_a_model_or_plain_data(call: Call) -> None:
    from roadwork_serve.cascade.policy_file import load_policy

    policy = load_policy("mini")
    change = PolicyChange(revision=2, version=policy.version, replicas=1)
    server = Server(ok(change))
    assert call(server, "put_policy", policy) == change == call(server, "put_policy", policy.to_mapping())
    assert [json.loads(request.content) for request in server.requests] == [policy.to_mapping()] * 2
    assert {request.method for request in server.requests} == {"PUT"}


def test_entry_ids_are_escaped_in_the_path(call: Call) -> None:
    server = Server(httpx.Response(200, content=b"file"))
    assert call(server, "journal_media", "../policy?x=1") == b"file"
    assert server.requests[0].url.raw_path == b"/v1/journal/..%2Fpolicy%3Fx%3D1/media"


def test_the_journal_can_be_sorted(call: Call) -> None:
    server = Server(ok(JournalPage(entries=[])))
    call(server, "journal")
    call(server, "journal", limit=5, sort="informativeness")
    assert [dict(request.url.params) for request in server.requests] == [
        {"sort": "newest"},
        {"sort": "informativeness", "limit": "5"},
    ]


def test_the_journal_is_filtered_and_continued(call: Call) -> None:
    server = Server(ok(JournalPage(entries=[], next_cursor="2.0_b")))
    noon = datetime(2026, 11, 23, 13, tzinfo=timezone(timedelta(hours=1)))
    page = call(server, "journal", cursor="3.0_c", label="none", disagreement=True, since=noon, filename="cam 7")
    assert page.next_cursor == "2.0_b"
    assert dict(server.requests[0].url.params) == {
        "sort": "newest", "cursor": "3.0_c", "label": "none", "disagreement": "true",
        "since": "2026-11-23T12:00:00+00:00", "filename": "cam 7",
    }  # fmt: skip


@pytest.mark.parametrize(
    "kind", [BrokenMedia, StageFailed, NotFound, Unauthorised, PolicyConflict, JournalDown, RoadworkError]
)
def test_a_problem_becomes_the_error_it_was_made_of(call: Call, kind: type[RoadworkError]) -> None:
    with pytest.raises(kind, match="so it is") as raised:
        call(Server(problem(kind)), "classify", b"x")
    assert (raised.value.status, raised.value.title) == (kind.status, kind.title)


def test_an_unknown_problem_of_a_newer_server_keeps_its_title(call: Call) -> None:
    body = {"type": "urn:roadwork:problem:too-dark", "title": "It is too dark", "status": 422, "detail": "wait"}
    with pytest.raises(RoadworkError, match="wait") as raised:
        call(Server(httpx.Response(422, json=body)), "classify", b"x")
    assert (raised.value.title, raised.value.status, raised.value.slug) == ("It is too dark", 422, "too-dark")


def test_fields_that_a_newer_server_has_added_are_ignored(call: Call) -> None:
    body = json.loads(GIVEN.model_dump_json()) | {"weather": "fog"}
    assert call(Server(httpx.Response(200, json=body)), "classify", b"x") == GIVEN


@pytest.mark.parametrize(
    ("response", "error", "message"),
    [
        (httpx.ConnectError("refused"), ServerUnreachable, f"from {URL}: refused; is `roadwork serve` running there?"),
        (httpx.ReadTimeout(""), ServerUnreachable, "ReadTimeout"),
        (
            httpx.Response(200, text="<html>"),
            NotARoadworkServer,
            "200 with '<html>'; is it a roadwork server?",
        ),
        (httpx.Response(404, json={"detail": "no"}), NotARoadworkServer, "answered 404"),
        (httpx.Response(307, headers={"Location": "http://evil/"}), NotARoadworkServer, "answered 307"),
    ],
)
def test_no_response_and_a_foreign_response_are_different_errors(
    call: Call, response: Response, error: type[RoadworkError], message: str
) -> None:
    server = Server(response)
    with pytest.raises(error) as raised:
        call(server, "classify", b"x")
    assert message in str(raised.value)
    assert len(server.requests) == 1, "neither repeated nor redirected"


@pytest.mark.parametrize("kind", [Overloaded, NotReady, RateLimited])
def test_a_request_rejected_before_work_is_retried_after_the_pause(
    call: Call, pauses: list[float], kind: type[RoadworkError]
) -> None:
    server = Server(problem(kind, "2"), problem(kind, "1"), ok(GIVEN))
    assert call(server, "classify", b"x") == GIVEN
    assert pauses == [2, 1]
    assert [request.content for request in server.requests] == [b"x"] * 3


def test_a_request_that_may_have_been_processed_is_not_retried(call: Call, pauses: list[float]) -> None:
    server = Server(problem(StageFailed, "1"))
    for method, *args in (("classify", b"x"), ("rollback_policy",)):
        with pytest.raises(StageFailed):
            call(server, method, *args)
    assert pauses == []


def test_an_idempotent_request_is_retried_after_any_failure(call: Call, pauses: list[float]) -> None:
    stats = Stats(replicas=[])
    assert call(Server(problem(JournalDown, "3"), ok(stats)), "stats") == stats
    assert call(Server(httpx.Response(503, text="busy", headers={"Retry-After": "4"}), ok(stats)), "stats") == stats
    assert pauses == [3, 4]


def test_ready_raises_not_ready_without_a_retry(call: Call, pauses: list[float]) -> None:
    with pytest.raises(NotReady):
        call(Server(problem(NotReady, "1")), "ready")
    assert pauses == []


@pytest.mark.parametrize(
    ("retry", "count"),
    [(Retry(max_tries=1), 1), (Retry(max_tries=3), 3), (Retry(max_wait_s=5), 3), (Retry(max_wait_s=1), 1)],
)
def test_exhausted_retries_raise_the_last_error(call: Call, pauses: list[float], retry: Retry, count: int) -> None:
    server = Server(problem(Overloaded, "2"))
    with pytest.raises(Overloaded) as raised:
        call(server, "classify", b"x", settings={"retry": retry})
    assert (len(server.requests), raised.value.retry_after_s) == (count, 2)


@pytest.mark.parametrize("header", [None, "", "soon", "-1", "9" * 5000, "1.5"])
def test_without_a_valid_retry_time_nothing_is_retried(call: Call, pauses: list[float], header: str | None) -> None:
    with pytest.raises(Overloaded):
        call(Server(problem(Overloaded, header)), "classify", b"x")
    assert pauses == []


def test_a_pause_may_be_a_date(call: Call, pauses: list[float]) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    assert call(Server(problem(Overloaded, date), problem(Overloaded, past), ok(GIVEN)), "classify", b"x") == GIVEN
    assert 15 < pauses[0] <= 20 and pauses[1] == 0


def test_a_deadline_covers_all_attempts_together(
    call: Call, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("roadwork_serve.client.attempts.monotonic", lambda: now)

    class Slow(Server):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            nonlocal now
            now += 2
            return super().__call__(request)

    server = Slow(problem(Overloaded, "1"))
    with pytest.raises(Overloaded):
        call(server, "classify", b"x", deadline_ms=5000)
    assert [request.url.params["deadline_ms"] for request in server.requests] == ["5000", "3000"]
    assert [request.extensions["timeout"]["read"] for request in server.requests] == [10, 8]


@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_an_invalid_address_or_key_is_an_immediate_error(make: type[Client] | type[AsyncClient]) -> None:
    with pytest.raises(BadRequest, match=r"'http://\[::1' is no URL"):
        make("http://[::1")
    with pytest.raises(BadRequest, match=KEY_VARIABLE):
        make(URL, "rw_key\n")
    assert make("server:8000/").url == "http://server:8000"


def test_an_unreadable_file_is_an_error(call: Call, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"gone\.jpg cannot be read: No such file"):
        call(Server(ok(GIVEN)), "classify", tmp_path / "gone.jpg")


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, inspect.Signature]:
        found = inspect.getmembers(kind, inspect.isfunction)
        return {name: inspect.signature(each) for name, each in found if name[0] != "_" and "close" not in name}

    assert methods(Client) == methods(AsyncClient)
    assert len(methods(Client)) == 19


@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_the_url_of_a_route_stands_for_its_server(make: type[Client] | type[AsyncClient]) -> None:
    for route in ("/v1/classify", "/v1/classify/", "//v1/classify/batch", "/v1", "/readyz", "/docs", "/openapi.json"):
        assert make(f"http://server:1{route}").url == "http://server:1"
        assert make(f"http://server:1/roads{route}").url == "http://server:1/roads"
    assert make("server/v1/classify").url == "http://server"
    assert make("http://v1/").url == "http://v1"
    for wrong in ("http://server/v1/classify?deadline_ms=5", "http://server#a", "ftp://server", "http://", "file:///a"):
        with pytest.raises(BadRequest, match="give"):
            make(wrong)


@pytest.mark.parametrize("name", ["Stra\u00dfe 7, \u5de5\u4e8b.jpg", "100%.jpg", "a/b.jpg", "\u5de5" * 300])
def test_names_that_are_not_ascii_arrive_whole(call: Call, name: str) -> None:
    server = Server(ok(GIVEN))
    call(server, "classify", b"picture", request_key="Stra\u00dfe", filename=name)
    headers = dict(server.requests[0].headers.raw)
    assert headers[b"X-Request-Key"].decode() == "Stra\u00dfe"
    assert filename_of_header(headers[b"X-File-Name"].decode("latin-1")) == name[:255]


def test_the_name_of_a_path_is_sent(call: Call, tmp_path: Path) -> None:
    (tmp_path / "one.jpg").write_bytes(b"picture")
    server = Server(ok(GIVEN))
    call(server, "classify", tmp_path / "one.jpg")
    call(server, "classify", b"picture")
    call(server, "classify", tmp_path / "one.jpg", filename="other.jpg")
    assert [request.headers.get("X-File-Name") for request in server.requests] == ["one.jpg", None, "other.jpg"]


@pytest.mark.parametrize("name", ["a\nb", "a\0", "\x1b[31m"])
def test_a_name_that_no_header_holds_is_a_bad_request(call: Call, name: str) -> None:
    for given in ({"request_key": name}, {"request_id": name}):
        with pytest.raises(BadRequest, match="printable"):
            call(Server(ok(GIVEN)), "classify", b"picture", **given)
