"""The journal routes and their access control."""

import hashlib
import json
import os
from collections.abc import Awaitable, Callable

import httpx
import pytest
from fastapi import APIRouter, FastAPI

from roadwork_serve.api.api_keys import ADMIN_TOKEN
from roadwork_serve.api.auth import Authenticator
from roadwork_serve.api.classify_routes import http_app
from roadwork_serve.api.journal_routes import journal_routes
from roadwork_serve.api.problem_details import install_problem_handlers
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.policy_file import load_rollout
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.errors import JournalDown, NotFound, PolicyRefused
from roadwork_serve.journal.filter import Filter
from roadwork_serve.schema import HumanLabel, JournalEntry, JournalPage, PolicyPreview
from roadwork_serve.state_folder import state_folder
from roadwork_serve.testbed import scenes
from tests.api.test_classify_routes import FakeService
from tests.journal.made import verdict

KEYS = [
    {"name": "ann", "role": "admin", "sha256": hashlib.sha256(b"rw_admin").hexdigest()},
    {"name": "cam", "role": "client", "sha256": hashlib.sha256(b"rw_client").hexdigest()},
]
TOKEN = "the admin token"
ANSWER = JournalEntry(id="a1", created_at="2026-01-02T03:04:05.000+00:00", verdict=verdict("a1"), media_available=True)
PREVIEW = PolicyPreview(
    version="b", entries=0, exits=[], unknown_proposed=0, unknown_current=0, flipped=0, labeled=0, correct_current=0,
    correct_proposed=0, gflops_current=0, gflops_proposed=0,
)  # fmt: skip
POLICY = {
    "version": "b",
    "photo": [{"stage": "backbone", "exit": [0.1, 0.9]}],
    "clip": [{"stage": "backbone", "exit": [0.1, 0.9]}],
}
PATHS = [
    ("GET", "/v1/journal", None),
    ("GET", "/v1/journal?sort=informativeness", None),
    ("GET", "/v1/journal/a1/media", None),
    ("GET", "/v1/journal/a1/thumbnail", None),
    ("PUT", "/v1/journal/a1/label", {"label": "none"}),
    ("DELETE", "/v1/journal/a1/label", None),
    ("POST", "/v1/policy/preview", POLICY),
]


ROLLOUT = load_rollout({}, "mini")


class Service:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.asked: list[tuple[object, ...]] = []
        self.file = scenes.photo(1, 0.2).jpeg()

    def _record(self, *asked: object) -> None:
        if self.error:
            raise self.error
        self.asked.append(asked)

    def check(self, rollout: Rollout) -> None:
        if isinstance(self.error, PolicyRefused):
            raise self.error

    async def recent(self, limit: int, where: Filter, cursor: str | None) -> JournalPage:
        self._record("recent", limit, where, cursor)
        return JournalPage(entries=[ANSWER])

    async def informative(self, limit: int, where: Filter, decision_threshold: float) -> JournalPage:
        self._record("informative", limit, where, decision_threshold)
        return JournalPage(entries=[])

    async def media(self, answer_id: str) -> bytes:
        self._record("media", answer_id)
        return self.file

    async def label(self, answer_id: str, label: HumanLabel, author: str) -> JournalEntry:
        self._record("label", answer_id, label.label, label.note, author)
        return ANSWER

    async def withdraw_label(self, answer_id: str, author: str) -> JournalEntry:
        self._record("withdraw_label", answer_id, author)
        return ANSWER

    async def thumbnail(self, load: Callable[[], Awaitable[bytes]]) -> bytes:
        assert await load() == self.file
        return b"small"

    async def preview(self, current: Policy, proposed: Policy, last: int) -> PolicyPreview:
        self._record("preview", current.version, proposed.version, last)
        return PREVIEW


def routes(service: Service, auth: Authenticator) -> APIRouter:
    return journal_routes(service, lambda: ROLLOUT, service.check, auth, service.thumbnail)


@pytest.fixture
def service() -> Service:
    return Service()


def client(service: Service, key: str = "", keys: object = KEYS, host: str = "127.0.0.1") -> httpx.AsyncClient:
    guard = Authenticator.from_environment(1, {"ROADWORK_KEYS": json.dumps(keys)} if keys else os.environ)
    if key == TOKEN:
        key = (state_folder() / ADMIN_TOKEN).read_text()
    app = http_app(FakeService(), guard)  # for its request ids
    app.include_router(routes(service, guard))
    assert isinstance(app, FastAPI)
    install_problem_handlers(app)
    headers = {"X-API-Key": key} if key else {}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}", headers=headers)


@pytest.mark.parametrize(("method", "path", "body"), PATHS)
@pytest.mark.parametrize(
    ("key", "keys", "host", "status"),
    [
        ("rw_admin", KEYS, "127.0.0.1", 200),
        ("rw_admin", KEYS, "road.example", 200),
        ("rw_client", KEYS, "127.0.0.1", 403),
        ("", KEYS, "127.0.0.1", 401),
        ("", None, "127.0.0.1", 401),
        ("rw_client", None, "127.0.0.1", 401),
        (TOKEN, None, "127.0.0.1", 200),
        (TOKEN, None, "localhost:8000", 200),
        (TOKEN, None, "[::1]:8000", 200),
        (TOKEN, None, "evil.example", 403),
        (TOKEN, None, "127.0.0.1.evil.example", 403),
    ],
)
async def test_entries_require_an_admin_key_or_the_admin_token(
    service: Service, method: str, path: str, body: object, key: str, keys: object, host: str, status: int
):
    async with client(service, key, keys, host) as asked:
        reply = await asked.request(method, path, json=body)
    assert reply.status_code == status, reply.text
    assert bool(service.asked) == (status == 200)


async def test_a_label_is_stored_with_the_name_of_the_key(service: Service):
    async with client(service, "rw_admin") as asked:
        reply = await asked.put("/v1/journal/a1/label", json={"label": "unclear", "note": "fog"})
    assert reply.status_code == 200
    assert service.asked == [("label", "a1", "unclear", "fog", "ann")]


@pytest.mark.parametrize(
    ("kind", "body", "status", "message"),
    [
        ("text/plain", b'{"label": "none"}', 415, "send application/json"),
        ("application/json", b'{"label": "May be"}', 400, "label: String should match pattern"),
        ("application/json", b"[]", 400, "the body"),
        ("application/json", b"{", 400, "not JSON"),
        ("application/json", b"[" * 9000, 400, "not JSON"),
        ("application/json", b'{"label": "none", "colour": 1}', 400, "colour"),
        ("application/json", b" " * 20_000, 413, "send less"),
    ],
)
async def test_an_unknown_label_is_rejected(service: Service, kind: str, body: bytes, status: int, message: str):
    async with client(service, "rw_admin") as asked:
        reply = await asked.put("/v1/journal/a1/label", content=body, headers={"Content-Type": kind})
    assert reply.status_code == status, reply.text
    assert message in reply.json()["detail"]
    assert service.asked == []


async def test_a_file_cannot_run_as_a_page(service: Service):
    async with client(service, "rw_admin") as asked:
        reply = await asked.get("/v1/journal/a1/media")
    assert reply.content == service.file
    assert reply.headers["content-type"] == "image/jpeg"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"] == "sandbox"


async def test_entries_are_selected_by_the_query(service: Service):
    query = {
        "label": "none", "exit_stage": "vlm", "media": "clip", "disagreement": "true", "labeled": "false",
        "since": "2026-11-23T08:00+01:00", "until": "2026-11-24", "filename": "cam_7", "cursor": "1.5_a-1",
    }  # fmt: skip
    async with client(service, "rw_admin") as asked:
        for more in ({}, {"sort": "informativeness"}):
            reply = await asked.get("/v1/journal", params=query | more)
            query.pop("cursor", None)
            assert reply.status_code == 200, reply.text
    where = Filter(
        since_s=1_795_417_200.0, until_s=1_795_478_400.0, label="none", exit_stage="vlm", media="clip",
        filename_part="cam_7", labeled=False, disagreement=True,
    )  # fmt: skip
    assert service.asked == [
        ("recent", 20, where, "1.5_a-1"),
        ("informative", 20, where, ROLLOUT.policy.decision_threshold),
    ]


async def test_a_thumbnail_is_a_picture_and_cannot_run_as_a_page(service: Service):
    async with client(service, "rw_admin") as asked:
        reply = await asked.get("/v1/journal/a1/thumbnail")
    assert (reply.content, reply.headers["content-type"]) == (b"small", "image/jpeg")
    assert reply.headers["content-security-policy"] == "sandbox"


async def test_a_label_is_withdrawn_in_the_name_of_the_key(service: Service):
    async with client(service, "rw_admin") as asked:
        assert (await asked.delete("/v1/journal/a1/label")).status_code == 200
    assert service.asked == [("withdraw_label", "a1", "ann")]


@pytest.mark.parametrize(("method", "path", "body"), PATHS)
@pytest.mark.parametrize("error", [JournalDown("it is away"), NotFound("no answer is known by a1")])
async def test_journal_errors_become_problem_documents(
    service: Service, method: str, path: str, body: object, error: Exception
):
    service.error = error
    async with client(service, "rw_admin") as asked:
        reply = await asked.request(method, path, json=body)
    assert reply.status_code == error.status  # type: ignore[attr-defined]
    assert reply.json()["detail"] == str(error)


async def test_an_invalid_policy_is_not_previewed(service: Service):
    service.error = PolicyRefused("policy: photo[0].exit: low 0.9 is above high 0.1")
    async with client(service, "rw_admin") as asked:
        reply = await asked.post("/v1/policy/preview", json=POLICY)
    assert reply.status_code == PolicyRefused.status


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=201", "limit=x", "sort=oldest", "label=no%20word", "exit_stage=hall", "since=yesterday",
        "since=1700000000", "until=2026-13-01", "filename=" + "a" * 256, "cursor=7", "cursor=1_%00",
        "cursor=1_a&sort=informativeness", "disagreement=perhaps", "file_name=a",
    ],
)  # fmt: skip
async def test_parameters_out_of_range_are_rejected(service: Service, query: str):
    async with client(service, "rw_admin") as asked:
        assert (await asked.get(f"/v1/journal?{query}")).status_code == 400
    assert service.asked == []
