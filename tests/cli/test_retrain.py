"""`roadwork retrain`, as typed in a shell."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from roadwork_serve.cli.main import app
from roadwork_serve.engines.features import Head
from roadwork_serve.engines.head_files import heads_folder, read_head_files
from roadwork_serve.journal.record import DeferredResult
from roadwork_serve.journal.store import Store
from tests.test_retraining import COLD, traffic


@pytest.fixture
def url(tmp_path: Path) -> str:
    where = f"sqlite:///{tmp_path / 'journal.db'}"
    store = Store.open(where)
    cases = traffic(900)
    store.commit([case.prediction for case in cases])
    store.commit([DeferredResult(case.prediction.id, 1.0, "audit") for case in cases if case.audit is not None])
    store.annotate([(case.prediction.id, case.annotation) for case in cases if case.annotation is not None])
    store.close()
    return where


def test_a_better_policy_is_activated_and_the_audit_continues(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[tuple[str, Any]] = []

    def server(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        requests.append((f"{request.method} {request.url.path}", body))
        rollout = {"policy": COLD.to_mapping(), "audit": {"share": 0.1, "max_concurrent": 2}}
        state = {"revision": 1, "version": COLD.version, "rollout": rollout, "history": []}
        change = {"version": "new", "revision": 2, "replicas": 1}
        return httpx.Response(200, json=state if request.method == "GET" else change)

    client = httpx.Client
    transport = {"transport": httpx.MockTransport(server)}
    monkeypatch.setattr(httpx, "Client", lambda **settings: client(**settings | transport))
    words = ["retrain", "--journal", url, "--out", str(tmp_path / "out"), "--risk-limit", "0.05", "--margin", "0.08"]
    result = CliRunner().invoke(app, [*words, "--promote"])
    assert result.exit_code == 0, result.output
    assert [route for route, _ in requests] == ["GET /v1/policy", "PUT /v1/policy"]
    put = requests[1][1]
    assert put["audit"] == {"share": 0.1, "max_concurrent": 2}
    (folder,) = (tmp_path / "out").iterdir()
    assert yaml.safe_load((folder / "policy.yaml").read_text())["version"] == put["policy"]["version"] == folder.name
    assert put["policy"]["photo"][0]["head"] == str(folder / "head")


def test_heads_are_written_where_the_server_looks_for_them(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROADWORK_STATE", str(tmp_path / "state"))
    (tmp_path / "cold.yaml").write_text(yaml.safe_dump(COLD.to_mapping()))
    words = ["retrain", "--journal", url, "--policy", str(tmp_path / "cold.yaml"), "--risk-limit", "0.05"]
    result = CliRunner().invoke(app, [*words, "--margin", "0.08"])
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "state/heads").iterdir()
    head = yaml.safe_load((folder / "policy.yaml").read_text())["photo"][0]["head"]
    assert Head.parse(read_head_files(heads_folder(None), head), head).settings.outputs


def test_a_policy_that_is_not_better_is_not_activated(url: str, tmp_path: Path) -> None:
    (tmp_path / "cold.yaml").write_text(yaml.safe_dump(COLD.to_mapping()))
    words = ["retrain", "--journal", url, "--policy", str(tmp_path / "cold.yaml"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*words, "--risk-limit", "0.001"])
    assert result.exit_code == 1
    assert "Not better" in result.output and "more rows of photos are needed" in result.output.replace("\n", " ")


def test_without_a_journal_retrain_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["retrain", "--journal", f"sqlite:///{tmp_path / 'none.db'}", "--policy", "mini"])
    assert result.exit_code == 2 and "there is no journal" in result.output
