"""`roadwork policy` against a server that remembers what it was asked."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner, Result

from roadwork_serve.cli.main import app

STEPS = [{"stage": "backbone", "exit": [0.1, 0.9]}]
POLICY = {"version": "mine-1", "photo": STEPS, "clip": STEPS}
EDITION = {
    "number": 2,
    "version": "mine-1",
    "origin": "put",
    "by": "ann",
    "at": "2026-11-23T02:00:00",
    "restores": None,
}


class Server:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any, str | None]] = []
        self.answer: tuple[int, object] = 200, {"number": 2, "version": "mine-1", "replicas": 2}

    def request(self, method: str, url: str, **settings: Any) -> httpx.Response:
        self.asked.append((method, url, settings["json"], settings["headers"].get("Authorization")))
        return httpx.Response(self.answer[0], json=self.answer[1])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(httpx, "request", server.request)
    monkeypatch.setenv("ROADWORK_API_KEY", "rw_secret")
    monkeypatch.setenv("COLUMNS", "200")
    return server


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["policy", *words])


def test_a_file_is_checked_and_put_whole_with_the_key(server: Server, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(POLICY))
    done = run("put", str(file), "--url", "http://there:1/")
    assert done.exit_code == 0, done.output
    assert "mine-1 is in force: edition 2, on 2 ingress replicas" in done.output
    ((method, url, body, key),) = server.asked
    assert (method, url, key) == ("PUT", "http://there:1/v1/policy", "Bearer rw_secret")
    assert body["policy"]["version"] == "mine-1"


def test_rules_in_a_file_may_name_policies(server: Server, tmp_path: Path):
    file = tmp_path / "trial.yaml"
    file.write_text(yaml.safe_dump({"policy": "mini", "split": {"policy": POLICY, "share": 0.1}}))
    assert run("put", str(file)).exit_code == 0
    body = server.asked[0][2]
    assert body["policy"]["version"].startswith("mini")
    assert body["split"]["policy"]["version"] == "mine-1"


@pytest.mark.parametrize("text", ["version: x", "{", "[]", "policy: no-such"])
def test_what_makes_no_sense_is_told_and_not_sent(server: Server, tmp_path: Path, text: str):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    done = run("put", str(file))
    assert done.exit_code == 2
    assert "does not make sense" in done.output
    assert server.asked == []


def test_a_refusal_is_told_in_the_servers_words(server: Server):
    server.answer = 409, {"title": "The policy cannot come into force", "detail": "nothing was in force before this"}
    done = run("rollback")
    assert done.exit_code == 2
    assert "The policy cannot come into force: nothing was in force before this" in done.output


def test_history_is_shown(server: Server):
    server.answer = 200, {"number": 2, "version": "mine-1", "rules": {}, "history": [EDITION]}
    done = run("show")
    assert "In force: mine-1 (edition 2)" in done.output
    assert "ann" in done.output
    assert json.loads(run("show", "--json").output)["number"] == 2


def test_a_server_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch):
    done = run("show", "--url", "http://127.0.0.1:1")
    assert done.exit_code == 2
    assert "The server cannot be reached: http://127.0.0.1:1" in done.output
    assert "is `roadwork serve` running there?" in done.output
