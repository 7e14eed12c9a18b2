"""The routes over a service without Ray, stages or media."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import httpx
import pytest
from fastapi import FastAPI

from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.api.request_context import RequestContext
from roadwork_serve.api.status import task_info
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.errors import (
    BrokenMedia,
    DeadlineExceeded,
    MediaTooLarge,
    NoOpinion,
    NotReady,
    Overloaded,
    RoadworkError,
    StageFailed,
    UnsupportedMedia,
)
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.ingress_spec import IngressSpec
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.profiles.task import default_task
from roadwork_serve.schema import BatchResult, Exit, Limits, Problem, Readiness, Stats, Verdict
from roadwork_serve.server_state import Info

KIB = 1024
PROFILE = Profile(
    name="test",
    policy="mini",
    media=MediaLimits(max_bytes=100 * KIB),
    ingress=IngressSpec(max_batch_files=3, max_batch_bytes=200 * KIB, default_deadline_ms=7000),
    engines={"dinov3": EngineSpec(backend="transformers", model="bundled:backbone")},
    stages={"backbone": StageSpec(engine="dinov3")},
)


class FakeService:
    """Returns a fixed verdict, or raises `error`."""

    def __init__(self) -> None:
        self.profile = PROFILE
        self.error: Exception | None = None
        self.closed: RoadworkError | None = None
        self.seen: list[bytes] = []
        self.contexts: list[RequestContext] = []
        self.left_s, self.feasible_s = 0.0, 0.0
        self.reserved, self.room = 0, 10**9
        self.status = self
        self.busy = False

    @contextmanager
    def receiving(self) -> Iterator["FakeService"]:
        self.readiness()
        yield self

    @contextmanager
    def admission(self) -> Iterator[None]:
        self.readiness()
        yield

    def reserve_bytes(self, size: int) -> None:
        self.reserved += size
        if self.reserved > self.room:
            raise Overloaded("too much in flight")

    def check_feasible(self, deadline_s: float) -> None:
        self.feasible_s = deadline_s - asyncio.get_running_loop().time()
        if self.busy:
            raise Overloaded("8 items wait for backbone", 2.0)

    async def classify_media(self, data: bytes, deadline_s: float, request_id: str, context: RequestContext) -> Verdict:
        self.left_s = deadline_s - asyncio.get_running_loop().time()
        self.seen.append(data)
        self.contexts.append(context)
        if self.error:
            raise self.error
        if data == b"bad":
            raise BrokenMedia("it is bad; send a good one")
        return Verdict(
            request_id=request_id,
            media="photo",
            label="roadwork",
            probability=0.9,
            exit=Exit(stage="backbone", reason="above_band"),
            stages=[],
            policy_version="test-1",
            profile="test",
            elapsed_ms=1.0,
        )

    def readiness(self) -> Readiness:
        if self.closed:
            raise self.closed
        return Readiness(up=["backbone"], down=["vlm"])

    async def stats(self) -> Stats:
        return Stats(replicas=[])

    def info(self) -> Info:
        limits = Limits(
            max_bytes=1,
            max_pixels=1,
            max_seconds=1,
            max_clip_frames=1,
            max_batch_files=1,
            max_batch_bytes=1,
            max_deadline_ms=1,
            default_deadline_ms=1,
        )
        return Info(
            version="1",
            profile="test",
            task=task_info(default_task()),
            policy=load_policy("mini"),
            stages=[],
            in_flight=0,
            limits=limits,
        )


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def app(service: FakeService) -> FastAPI:
    return http_app(service)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


def problem(response: httpx.Response, status: int, slug: str) -> Problem:
    """Return the response as the problem it must be."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = Problem.model_validate_json(response.content)
    assert (document.type, document.status) == (f"urn:roadwork:problem:{slug}", status)
    assert document.instance == response.headers["x-request-id"]
    return document


async def post(client: httpx.AsyncClient, body: bytes = b"photo", kind: str = "image/jpeg", **query: object):
    return await client.post("/v1/classify", content=body, headers={"content-type": kind}, params=query)


@pytest.mark.parametrize(
    "kind",
    [
        *("image/jpeg", "IMAGE/PNG", "video/mp4; codecs=avc1", "application/octet-stream", "binary/octet-stream", ""),
        *("*/*", "application/mp4", "image/jpg", "text/plain", "text/html", "application/xml", "jpeg"),
    ],
)
async def test_a_raw_body_of_any_media_type_gets_a_verdict(client: httpx.AsyncClient, service: FakeService, kind: str):
    response = await post(client, b"photo", kind)
    assert Verdict.model_validate_json(response.content).label == "roadwork"
    assert service.seen == [b"photo"]


async def test_a_raw_body_without_a_content_type_is_classified(client: httpx.AsyncClient, service: FakeService):
    assert (await client.post("/v1/classify", content=b"photo")).status_code == 200
    assert service.seen == [b"photo"]


async def test_a_form_carries_file_and_deadline(client: httpx.AsyncClient, service: FakeService):
    response = await client.post("/v1/classify", files={"file": ("a.jpg", b"photo")}, data={"deadline_ms": "2000"})
    assert response.status_code == 200
    assert service.seen == [b"photo"]
    assert 1.0 < service.left_s <= 2.0


@pytest.mark.parametrize("field", ["image", "video"])
async def test_json_carries_base64(client: httpx.AsyncClient, service: FakeService, field: str):
    body = {field: base64.b64encode(b"photo").decode(), "deadline_ms": 3000}
    assert (await client.post("/v1/classify", json=body)).status_code == 200
    assert service.seen == [b"photo"]
    assert 2.0 < service.left_s <= 3.0


@pytest.mark.parametrize(
    ("query", "headers", "at_most_s"),
    [
        ({}, {}, 7.0),
        ({"deadline_ms": 500}, {}, 0.5),
        ({}, {"x-request-timeout-seconds": "2"}, 1.9),
        ({}, {"x-request-timeout-seconds": "0.5"}, 0.45),
        ({"deadline_ms": 500}, {"x-request-timeout-seconds": "2"}, 0.5),
    ],
)
async def test_the_nearest_deadline_applies(
    client: httpx.AsyncClient, service: FakeService, query: dict, headers: dict, at_most_s: float
):
    await client.post("/v1/classify", content=b"photo", params=query, headers=headers)
    assert at_most_s - 0.4 < service.left_s <= at_most_s


async def test_the_default_deadline_does_not_reject_a_request_whose_body_may_allow_more(
    client: httpx.AsyncClient, service: FakeService
):
    body = {"image": base64.b64encode(b"photo").decode(), "deadline_ms": 60_000}
    await client.post("/v1/classify", json=body)
    assert service.feasible_s > service.left_s > 59
    await client.post("/v1/classify", json=body, params={"deadline_ms": 500})
    assert service.feasible_s <= 0.5
    await post(client, b"photo")
    assert service.feasible_s <= 7.0


@pytest.mark.parametrize("value", ["0", "-5", "NaN", "inf", "1.5", "soon", "600001", ""])
async def test_an_invalid_deadline_is_a_bad_request(client: httpx.AsyncClient, service: FakeService, value: str):
    problem(await post(client, deadline_ms=value), 400, "bad-request")
    problem(
        await client.post("/v1/classify", files={"file": b"photo"}, data={"deadline_ms": value}), 400, "bad-request"
    )
    text = base64.b64encode(b"photo").decode()
    number = value if value.lstrip("-").isdecimal() else json.dumps(value)
    body = f'{{"image": "{text}", "deadline_ms": {number}}}'
    problem(await post(client, body.encode(), "application/json"), 400, "bad-request")
    assert service.seen == []


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon", "601", "1e9"])
async def test_an_invalid_timeout_header_is_a_bad_request(client: httpx.AsyncClient, value: str):
    response = await client.post("/v1/classify", content=b"x", headers={"x-request-timeout-seconds": value})
    assert "x-request-timeout-seconds" in problem(response, 400, "bad-request").detail


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"image": "####"}',
        b'{"image": "YQ==YQ"}',
        '{"image": "äää"}'.encode(),
        b'{"image": "data:image/jpeg;base64,YQ=="}',
        b'{"image": "YQ==", "video": "YQ=="}',
        b'{"image": "YQ==", "picture": 1}',
        b'{"image": 1}',
        b'{"image": "\xff\xfe"}',
        rb'{"image": "\ud800"}',
        b'{"image": ' + b"[" * 50_000,
        b'{"image": ' + b"[" * 60 + b"]" * 60 + b"}",
        b"{" + b",".join(b'"a%d": 1' % at for at in range(9_000)) + b"}",
        b'{"image": "YQ==", "deadline_ms": ' + b"9" * 50_000 + b"}",
    ],
)
async def test_invalid_json_is_a_bad_request(client: httpx.AsyncClient, service: FakeService, body: bytes):
    problem(await post(client, body, "application/json"), 400, "bad-request")
    assert service.seen == []


FORM = "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x--"),
        (FORM, b""),
        (FORM, b"photo"),
        (FORM, b"--x\r\nContent-Disposition: form-data\r\n\r\nphoto\r\n--x--\r\n"),
        (FORM, b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nno end'),
    ],
)
async def test_an_invalid_form_is_a_bad_request(
    client: httpx.AsyncClient, service: FakeService, kind: str, body: bytes
):
    assert problem(await post(client, body, kind), 400, "bad-request").detail
    assert service.seen == []


@pytest.mark.parametrize("charset", ["idna", "unicode_escape", "undefined", "punycode", "utf-16", "zip", "x" * 500])
async def test_a_form_names_its_files_in_utf8(client: httpx.AsyncClient, service: FakeService, charset: str):
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="\\ud800.jpg"\r\n\r\nphoto\r\n--x--\r\n'
    for path in ("/v1/classify", "/v1/classify/batch"):
        headers = {"content-type": f"{FORM}; charset={charset}"}
        document = problem(await client.post(path, content=body, headers=headers), 400, "bad-request")
        assert "UTF-8" in document.detail and len(document.detail) < 200
    assert service.seen == []
    for charset in ("utf-8", '"UTF-8"', "us-ascii"):
        assert (await post(client, body, f"{FORM}; charset={charset}")).status_code == 200


@pytest.mark.parametrize(
    "headers", [b"A: b\r\n" * 100, b"A: " + b"b" * 50_000 + b"\r\n", b"Content-Disposition: form-data; x\r\n"]
)
async def test_a_part_with_absurd_headers_is_a_bad_request(
    client: httpx.AsyncClient, service: FakeService, headers: bytes
):
    body = b"--x\r\n" + headers + b"\r\nphoto\r\n--x--\r\n"
    assert problem(await post(client, body, FORM), 400, "bad-request").detail
    assert service.seen == []


@pytest.mark.parametrize("name", ["a" * 3_000, "../../etc/passwd", "<script>", "a\u202egpj.exe"])
async def test_a_file_name_is_returned_truncated(client: httpx.AsyncClient, service: FakeService, name: str):
    response = await client.post("/v1/classify/batch", files=[("file", (name, b"photo"))])
    assert [entry["filename"] for entry in response.json()["results"]] == [name[:255]]


async def test_a_single_file_form_rejects_two_files_and_unknown_fields(client: httpx.AsyncClient):
    two = [("file", b"photo"), ("file", b"photo")]
    problem(await client.post("/v1/classify", files=two), 400, "bad-request")
    document = problem(
        await client.post("/v1/classify", files={"file": b"photo"}, data={"deadline": "5"}), 400, "bad-request"
    )
    assert "'deadline'" in document.detail


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("application/x-www-form-urlencoded", "-H 'Content-Type: image/jpeg', and use --data-binary"),
        ("application/x-www-form-urlencoded; charset=UTF-8", "--data-binary"),
        ("multipart/mixed; boundary=x", "multipart/form-data"),
        ("multipart/related", "multipart/form-data"),
    ],
)
async def test_other_forms_are_unsupported(client: httpx.AsyncClient, service: FakeService, kind: str, hint: str):
    assert hint in problem(await post(client, b"photo", kind), 415, "unsupported-media").detail
    assert service.seen == []


async def test_a_batch_is_a_form(client: httpx.AsyncClient):
    response = await client.post("/v1/classify/batch", content=b"photo", headers={"content-type": "image/jpeg"})
    assert "multipart/form-data" in problem(response, 415, "unsupported-media").detail


class Endless:
    """A body without a declared length that counts how much of it was taken."""

    def __init__(self, head: bytes = b"") -> None:
        self._head = head
        self.taken = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._head
        while self.taken < 100 * 2**20:
            self.taken += 16 * KIB
            yield b"\0" * 16 * KIB


@pytest.mark.parametrize(
    ("path", "kind", "head"),
    [
        ("/v1/classify", "image/jpeg", b""),
        ("/v1/classify", "application/json", b'{"image": "'),
        ("/v1/classify", FORM, b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'),
        ("/v1/classify/batch", FORM, b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'),
    ],
)
async def test_a_body_is_rejected_while_it_is_read(app: FastAPI, path: str, kind: str, head: bytes):
    """Call the application through ASGI, because httpx would read the whole body first."""
    body = Endless(head)
    chunks = aiter(body)
    sent: list = []

    async def receive() -> dict:
        return {"type": "http.request", "body": await anext(chunks), "more_body": True}

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", kind.encode())],
        "server": ("test", 80),
        "client": ("test", 1),
        "scheme": "http",
        "http_version": "1.1",
    }
    await app(scope, receive, send)
    assert sent[0]["status"] == 413
    assert body.taken < 300 * KIB


async def test_a_body_that_declares_too_much_is_not_read(client: httpx.AsyncClient):
    body = Endless()
    for size in ("1" + "0" * 12, "9" * 5_000):
        headers = {"content-type": "image/jpeg", "content-length": size}
        problem(await client.post("/v1/classify", content=body, headers=headers), 413, "media-too-large")
    assert body.taken == 0


async def test_a_body_that_could_not_be_classified_in_time_is_not_read(client: httpx.AsyncClient, service: FakeService):
    service.busy, body = True, Endless()
    refused = await client.post("/v1/classify", content=body, headers={"content-type": "image/jpeg"})
    problem(refused, 503, "overloaded")
    assert (body.taken, refused.headers["retry-after"], service.seen) == (0, "2", [])


@pytest.mark.parametrize(
    ("error", "status", "slug", "retry_after"),
    [
        (MediaTooLarge("a"), 413, "media-too-large", None),
        (UnsupportedMedia("a"), 415, "unsupported-media", None),
        (BrokenMedia("a"), 422, "broken-media", None),
        (Overloaded("a", retry_after_s=2.2), 503, "overloaded", "3"),
        (Overloaded("a", retry_after_s=0.01), 503, "overloaded", "1"),
        (StageFailed("a"), 503, "stage-failed", "5"),
        (NoOpinion("a"), 503, "no-opinion", "5"),
        (DeadlineExceeded("a"), 504, "deadline", None),
    ],
)
async def test_each_error_is_its_problem(
    client: httpx.AsyncClient, service: FakeService, error: Exception, status: int, slug: str, retry_after: str | None
):
    service.error = error
    response = await post(client)
    assert problem(response, status, slug).detail == "a"
    assert response.headers.get("retry-after") == retry_after


async def test_an_unexpected_error_reveals_no_internals(client: httpx.AsyncClient, service: FakeService):
    service.error = ValueError("secret path")
    response = await post(client)
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret" not in response.text


@pytest.mark.parametrize("name", ["deadline_ms[]", "Deadline_ms", "DEADLINE_MS", "deadline-ms", "deadline", "api_key"])
async def test_an_unknown_query_parameter_is_a_bad_request(client: httpx.AsyncClient, service: FakeService, name: str):
    document = problem(await client.post("/v1/classify", params={name: "5"}, content=b"x"), 400, "bad-request")
    assert f"'{name}'" in document.detail and "deadline_ms" in document.detail.partition(";")[2]
    assert service.seen == []
    assert "none" in problem(await client.get("/v1/info", params={name: 1}), 400, "bad-request").detail
    assert (await client.get("/healthz", params={name: 1})).status_code == 200  # monitors add some against caches


@pytest.mark.parametrize(
    ("sent", "recorded"),
    [
        (b"a b.jpg", "a b.jpg"),
        ("Stra\u00dfe, \u5de5\u4e8b.jpg".encode(), "Stra\u00dfe, \u5de5\u4e8b.jpg"),
        (b"Stra%C3%9Fe%20100%25.jpg", "Stra\u00dfe 100%.jpg"),
        (b"a%0Ab%1b[31m\xe2\x80\xaegpj", "a b\ufffd\ufffdgpj"),
        (b"a" * 400, "a" * 255),
        (b"", ""),
    ],
)
async def test_a_name_in_a_header_is_recorded(
    client: httpx.AsyncClient, service: FakeService, sent: bytes, recorded: str
):
    assert (await client.post("/v1/classify", headers={b"x-file-name": sent}, content=b"x")).status_code == 200
    assert service.contexts[0].filename == recorded


async def test_a_name_in_a_form_is_recorded(client: httpx.AsyncClient, service: FakeService):
    headers = {"x-file-name": "header.jpg"}
    await client.post("/v1/classify", files={"file": ("Stra\u00dfe\u202e.jpg", b"x")}, headers=headers)
    await client.post("/v1/classify", files={"file": (None, b"x")}, headers=headers)
    await client.post("/v1/classify/batch", files=[("file", ("a.jpg", b"x")), ("file", (None, b"x"))])
    assert [each.filename for each in service.contexts] == ["Stra\u00dfe\ufffd.jpg", "header.jpg", "a.jpg", ""]


@pytest.mark.parametrize("name", [b"a\xff.jpg", b"%FF.jpg", b"a" * 5000])
async def test_a_name_that_is_no_text_is_a_bad_request(client: httpx.AsyncClient, service: FakeService, name: bytes):
    response = await client.post("/v1/classify", headers={b"x-file-name": name}, content=b"x")
    assert "x-file-name" in problem(response, 400, "bad-request").detail and len(response.text) < 600
    assert service.seen == []


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/classify/", "/v1/classify"),
        ("//v1/classify", "/v1/classify"),
        ("/v1//classify/batch//", "/v1/classify/batch"),
        ("/V1/Classify", "/v1/classify"),
        ("/healthz/", "/healthz"),
        ("/nowhere", "/openapi.json"),
    ],
)
async def test_an_unknown_path_names_the_route_that_was_meant(app: FastAPI, path: str, meant: str):
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport) as client:
        for method in ("POST", "GET"):
            response = await client.request(method, f"http://127.0.0.1{path}", content=b"photo")
            detail = problem(response, 404, "not-found").detail
            assert f"send this to {meant}" in detail or meant == "/openapi.json" in detail


async def test_unknown_paths_and_methods_are_problems(client: httpx.AsyncClient):
    problem(await client.get("/nowhere"), 404, "not-found")
    for method in ("GET", "HEAD", "OPTIONS", "TRACE", "PATCH", "BREW"):
        response = await client.request(method, "/v1/classify")
        assert response.status_code == 405 and response.headers["allow"] == "POST"
    assert "use POST" in problem(response, 405, "method-not-allowed").detail
    assert "GET" in (await client.post("/docs")).headers["allow"]
    assert (await client.post("/readyz")).headers["allow"] == "GET, HEAD"


async def test_a_path_that_almost_matches_is_not_redirected(client: httpx.AsyncClient):
    response = await client.post("/v1/classify/", content=b"photo", headers={"host": "192.0.2.7"})
    problem(response, 404, "not-found")
    assert "location" not in response.headers


async def test_nothing_is_read_before_the_stages_are_warm(client: httpx.AsyncClient, service: FakeService):
    service.closed = NotReady("still loading: vlm")
    for response in (
        await post(client, b"photo"),
        await client.post("/v1/classify/batch", files=[("file", b"photo")]),
        await client.get("/readyz"),
    ):
        assert "vlm" in problem(response, 503, "not-ready").detail
        assert int(response.headers["retry-after"]) > 0
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert service.seen == []


async def test_readiness_lists_the_stages_that_are_down(client: httpx.AsyncClient):
    assert (await client.get("/readyz")).json() == {
        "ready": True,
        "up": ["backbone"],
        "down": ["vlm"],
        "notes": {},
        "journal_error": None,
    }


@pytest.mark.parametrize("given", ["abc-1.2:3_4", "a" * 128])
async def test_a_sane_request_id_is_kept(client: httpx.AsyncClient, given: str):
    response = await client.post("/v1/classify", content=b"photo", headers={"x-request-id": given})
    assert response.headers["x-request-id"] == response.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", "a\u00e9".encode(), "<script>", 'a"b'])
async def test_any_other_request_id_is_replaced(client: httpx.AsyncClient, given: str | bytes):
    response = await client.post("/v1/classify", content=b"photo", headers={"x-request-id": given})
    chosen = response.json()["request_id"]
    assert chosen == response.headers["x-request-id"]
    assert chosen.isalnum() and len(chosen) == 32


async def test_behind_a_proxy_that_names_requests_the_header_is_not_doubled(service: FakeService):
    transport = httpx.ASGITransport(http_app(service, name_requests=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        response = await client.post("/v1/classify", content=b"photo", headers={"x-request-id": "abc"})
    assert "x-request-id" not in response.headers
    assert response.json()["request_id"] == "abc"


async def test_each_file_of_a_batch_gets_its_own_verdict_or_problem(client: httpx.AsyncClient, service: FakeService):
    files = [("file", ("a.jpg", b"photo")), ("other", ("b.jpg", b"bad")), ("file", ("a.jpg", b"clip"))]
    headers = {"x-request-id": "r"}
    response = await client.post("/v1/classify/batch", files=files, data={"deadline_ms": "900"}, headers=headers)
    assert response.status_code == 200
    first, second, third = response.json()["results"]
    assert (first["filename"], second["filename"], third["filename"]) == ("a.jpg", "b.jpg", "a.jpg")
    assert first["verdict"]["request_id"] == "r.1" and third["verdict"]["request_id"] == "r.3"
    assert second["verdict"] is None
    assert second["problem"]["status"] == 422 and second["problem"]["instance"] == "r.2"
    assert service.left_s <= 0.9


async def test_an_unexpected_error_does_not_fail_the_whole_batch(client: httpx.AsyncClient, service: FakeService):
    service.error = ValueError("secret")
    response = await client.post("/v1/classify/batch", files=[("file", b"1"), ("file", b"2")])
    assert [entry["problem"]["status"] for entry in response.json()["results"]] == [500, 500]
    assert "secret" not in response.text


async def test_a_batch_of_too_many_files_is_rejected_as_a_whole(client: httpx.AsyncClient, service: FakeService):
    files = [("file", b"photo")] * 4
    assert "3" in problem(await client.post("/v1/classify/batch", files=files), 400, "bad-request").detail
    assert service.seen == []


async def test_openapi_lists_every_status_and_body(client: httpx.AsyncClient):
    spec = (await client.get("/openapi.json")).json()
    classify = spec["paths"]["/v1/classify"]["post"]
    assert set(classify["responses"]) == {"200", "400", "401", "403", "408", "413", "415", "422", "429", "503", "504"}
    assert list(classify["requestBody"]["content"]) == [
        "application/octet-stream", "multipart/form-data", "application/json"
    ]  # fmt: skip
    assert {"Verdict", "Problem", "BatchResult", "Info", "Readiness"} <= set(spec["components"]["schemas"])
    assert "curl" in spec["info"]["description"]
    tried = await client.post("/v1/classify", json=classify["requestBody"]["content"]["application/json"]["example"])
    assert tried.status_code == 200
    example = classify["responses"]["200"]["content"]["application/json"]["example"]
    assert Verdict.model_validate(example).exit.stage == "signs"
    batch = spec["paths"]["/v1/classify/batch"]["post"]["responses"]["200"]["content"]["application/json"]["example"]
    assert BatchResult.model_validate(batch).results[0].verdict == Verdict.model_validate(example)
    assert (await client.get("/docs")).status_code == 200
    assert (await client.get("/")).json()["docs"] == "/docs"


async def test_stopping_the_application_stops_the_service(service: FakeService):
    stopped = asyncio.Event()

    async def stop() -> None:
        stopped.set()

    app = http_app(service, on_stop=stop)
    async with app.router.lifespan_context(app):
        assert not stopped.is_set()
    assert stopped.is_set()


async def test_the_bytes_of_all_requests_are_bounded(client: httpx.AsyncClient, service: FakeService):
    service.room = 10
    response = await client.post("/v1/classify", content=b"eleven byte")
    assert "too much" in problem(response, 503, "overloaded").detail
    assert service.seen == []


async def test_a_body_without_a_timely_deadline_gets_the_default(service: FakeService):
    service.profile = PROFILE.model_copy(update={"ingress": IngressSpec(default_deadline_ms=50)})

    async def never() -> AsyncIterator[bytes]:
        yield b"half"
        await asyncio.sleep(5)

    transport = httpx.ASGITransport(http_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        response = await client.post("/v1/classify", content=never())
    assert "while the request was read" in problem(response, 504, "deadline").detail


@pytest.mark.parametrize("text", ["1_0", " 10", "+10", "\u0661\u0660", "1e3", "", "0x10"])
async def test_a_deadline_is_decimal_digits(client: httpx.AsyncClient, service: FakeService, text: str):
    problem(await client.post("/v1/classify", params={"deadline_ms": text}, content=b"x"), 400, "bad-request")
    form = {"data": {"deadline_ms": text}, "files": {"file": b"x"}}
    problem(await client.post("/v1/classify", **form), 400, "bad-request")
    assert service.seen == []


@pytest.mark.parametrize("text", [b"1_0", b"+1", b" 1", b"inf", b"nan", b"\xa01", b"\xb2", b"1e999"])
async def test_a_timeout_is_decimal_digits(client: httpx.AsyncClient, service: FakeService, text: bytes):
    headers = {b"x-request-timeout-seconds": text}
    problem(await client.post("/v1/classify", headers=headers, content=b"x"), 400, "bad-request")
    assert service.seen == []


@pytest.mark.parametrize("text", ["+3", "3_0", "\xb3", "-3", "three"])
async def test_a_content_length_is_decimal_digits(client: httpx.AsyncClient, text: str):
    headers = {b"content-length": text.encode("latin-1")}
    response = await client.post("/v1/classify", headers=headers, content=b"abc")
    assert "decimal digits" in problem(response, 400, "bad-request").detail


@pytest.mark.parametrize("key", [b"\x9b31m", b"cam\xff", "\u202ecam".encode(), b"a\x7fb", "a\u0085b".encode()])
async def test_a_request_key_is_printable_text(client: httpx.AsyncClient, service: FakeService, key: bytes):
    response = await client.post("/v1/classify", headers={b"x-request-key": key}, content=b"x")
    assert "printable" in problem(response, 400, "bad-request").detail
    assert service.seen == []


async def test_a_request_key_is_utf8(client: httpx.AsyncClient, service: FakeService):
    key = "Stra\u00dfe 7, \u5de5\u4e8b"
    assert (await client.post("/v1/classify", headers={"x-request-key": key.encode()}, content=b"x")).status_code == 200
    assert service.contexts[0].key == key


@pytest.mark.parametrize("given", [b"\xff", b"\x9b31m", b"a b", b"", b"a" * 129, "\u00e4".encode()])
async def test_a_request_id_that_is_no_name_is_replaced(client: httpx.AsyncClient, given: bytes):
    response = await client.post("/v1/classify", headers={b"x-request-id": given}, content=b"x")
    assert response.status_code == 200
    assert len(response.json()["request_id"]) == 32 == len(response.headers["x-request-id"])
