"""`roadwork policy`, against a server that records its requests."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner, Result

from roadwork_serve.api.problem_details import problem_of
from roadwork_serve.cli.main import app
from roadwork_serve.errors import PolicyConflict

STEPS = [{"stage": "backbone", "exit": [0.1, 0.9]}]
POLICY = {"version": "mine-1", "photo": STEPS, "clip": STEPS}
REVISION = {
    "revision": 2,
    "version": "mine-1",
    "origin": "put",
    "author": "ann",
    "created_at": "2026-11-23T02:00:00",
    "rollback_of": None,
}
STATE = {
    "revision": 1,
    "version": "before",
    "rollout": {"policy": POLICY | {"version": "before"}, "audit": {"share": 0.02, "max_concurrent": 2}},
    "history": [],
}
CHANGE = {"revision": 2, "version": "mine-1", "replicas": 2}


class Server:
    """Gives one response and records the requests: method, URL, JSON body and key."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any, str | None]] = []
        self.response: tuple[int, object] = 200, CHANGE
        #: Whether a command asks for the active policy before it changes it.
        self.asked_first = True

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET" and self.asked_first:
            return httpx.Response(200, json=STATE)
        body = json.loads(request.content) if request.content else None
        self.requests.append((request.method, str(request.url), body, request.headers.get("Authorization")))
        return httpx.Response(self.response[0], json=self.response[1])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server, client = Server(), httpx.Client
    transport = {"transport": httpx.MockTransport(server)}
    monkeypatch.setattr(httpx, "Client", lambda **settings: client(**settings | transport))
    monkeypatch.setenv("ROADWORK_API_KEY", "rw_secret")
    monkeypatch.setenv("COLUMNS", "200")
    return server


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["policy", *words])


def test_a_file_is_validated_and_sent_complete_with_the_key(server: Server, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(POLICY))
    done = run("put", str(file), "--server", "http://there:1/")
    assert done.exit_code == 0, done.output
    assert "mine-1 is active: revision 2, on 2 ingress replicas" in done.output
    ((method, url, body, key),) = server.requests
    assert (method, url, key) == ("PUT", "http://there:1/v1/policy", "Bearer rw_secret")
    assert body["policy"]["version"] == "mine-1"
    assert body["audit"] == {"share": 0.02, "max_concurrent": 2}


@pytest.mark.parametrize(("share", "audit"), [("1", {"share": 1.0, "max_concurrent": 2}), ("0", None)])
def test_the_share_of_audits_changes_and_the_policy_stays(server: Server, share: str, audit: object):
    assert run("audit", share).exit_code == 0
    body = server.requests[0][2]
    assert body["policy"]["version"] == "before"
    assert body.get("audit") == audit


def test_a_rollout_file_may_name_policies(server: Server, tmp_path: Path):
    file = tmp_path / "trial.yaml"
    file.write_text(yaml.safe_dump({"policy": "mini", "split": {"policy": POLICY, "share": 0.1}}))
    assert run("put", str(file)).exit_code == 0
    body = server.requests[0][2]
    assert body["policy"]["version"].startswith("mini")
    assert body["split"]["policy"]["version"] == "mine-1"
    assert "audit" not in body


@pytest.mark.parametrize("text", ["version: x", "{", "[]", "policy: no-such"])
def test_an_invalid_file_is_an_error_and_not_sent(server: Server, tmp_path: Path, text: str):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    done = run("put", str(file))
    assert done.exit_code == 2
    assert "is invalid" in done.output
    assert server.requests == []


def test_a_problem_is_printed_with_its_title_and_detail(server: Server):
    server.response = 409, problem_of(PolicyConflict("no earlier revision is stored")).model_dump()
    done = run("rollback")
    assert done.exit_code == 2
    assert f"{PolicyConflict.title}: no earlier revision is stored" in done.output


def test_show_prints_the_history(server: Server):
    server.asked_first = False
    state = {"revision": 2, "version": "mine-1", "rollout": {"policy": POLICY}, "history": [REVISION]}
    server.response = 200, state
    done = run("show")
    assert "Active policy: mine-1 (revision 2)" in done.output
    assert "ann" in done.output
    assert json.loads(run("show", "--json").output)["revision"] == 2


def test_a_server_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch):
    done = run("show", "--server", "http://127.0.0.1:1")
    assert done.exit_code == 2
    assert "The server cannot be reached: no response from http://127.0.0.1:1" in done.output
    assert "is `roadwork serve` running there?" in done.output
