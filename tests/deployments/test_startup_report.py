"""The lines that a start prints."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from ray.serve.schema import ApplicationStatus

from deployments import startup_report
from deployments.local_ray import Dashboard
from roadwork_serve.api.api_keys import ADMIN_TOKEN
from roadwork_serve.state_folder import secret_file

URL = "http://127.0.0.1:8000"
LOADING = httpx.Response(503, json={"detail": "still loading: vlm"})


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[httpx.Response | Exception]]:
    """Return the answers of /readyz, one a poll."""
    answers: list[httpx.Response | Exception] = []

    def get(url: str, timeout: float) -> httpx.Response:
        assert url == f"{URL}/readyz"
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setenv("ROADWORK_STATE", str(tmp_path))
    monkeypatch.delenv("ROADWORK_KEYS", raising=False)
    monkeypatch.delenv("ROADWORK_KEYS_FILE", raising=False)
    monkeypatch.setattr(startup_report.httpx, "get", get)
    monkeypatch.setattr(startup_report, "_POLL_S", 0.0)
    monkeypatch.setattr(startup_report, "_SAY_S", 0.0)
    monkeypatch.setattr(startup_report.serve, "status", lambda: SimpleNamespace(applications={}))
    yield answers
    assert answers == []


def report(open_console: bool = False) -> None:
    startup_report._report(URL, Dashboard("127.0.0.1:8265"), open_console)


def test_it_says_what_is_loading_and_where_the_server_is(
    start: list[httpx.Response | Exception], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    token = secret_file(tmp_path / ADMIN_TOKEN).read_text()
    start += [httpx.ConnectError("refused"), LOADING, httpx.Response(200, json={})]
    report()
    said = capsys.readouterr().err
    assert "starting the processes" in said and "still loading: vlm" in said and "Ready after 0 s." in said
    assert f"API        {URL}/docs" in said and "Dashboard  http://127.0.0.1:8265" in said
    assert token not in said and "`roadwork console` prints the link" in said  # stderr is a file here


def test_a_terminal_gets_the_link_with_the_token(
    start: list[httpx.Response | Exception],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    token = secret_file(tmp_path / ADMIN_TOKEN).read_text()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    start.append(httpx.Response(200, json={}))
    report()
    assert f"Console    {URL}/#token={token}" in capsys.readouterr().err
    monkeypatch.setenv("ROADWORK_KEYS_FILE", "keys.yaml")
    start.append(httpx.Response(200, json={}))
    report()
    assert "#token" not in capsys.readouterr().err


def test_a_deployment_that_fails_is_told_once(
    start: list[httpx.Response | Exception], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = SimpleNamespace(status=ApplicationStatus.DEPLOY_FAILED, message="no weights")
    monkeypatch.setattr(startup_report.serve, "status", lambda: SimpleNamespace(applications={"roadwork": failed}))
    start += [LOADING, LOADING, httpx.Response(200, json={})]
    report()
    assert capsys.readouterr().err.count("The start failed: no weights") == 1


def test_it_opens_the_console(
    start: list[httpx.Response | Exception], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(opened.append(url)))
    start.append(httpx.Response(200, json={}))
    report(open_console=True)
    assert len(opened) == 1 and "there is no browser here" in capsys.readouterr().err


@pytest.mark.parametrize(("long_s", "fails", "early"), [(0.0, False, True), (60.0, True, True), (60.0, False, False)])
def test_the_dashboard_waits_until_there_is_something_to_look_at(
    start: list[httpx.Response | Exception],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    long_s: float,
    fails: bool,
    early: bool,
) -> None:
    told: list[str] = []

    class Recorded(Dashboard):
        def start(self) -> None:
            told.append("start")

        def url(self) -> str:
            told.append("url" if "Ready" in capsys.readouterr().err else "too early")
            return "off"

    failed = SimpleNamespace(status=ApplicationStatus.DEPLOY_FAILED, message="no weights")
    applications = {"roadwork": failed} if fails else {}
    monkeypatch.setattr(startup_report.serve, "status", lambda: SimpleNamespace(applications=applications))
    monkeypatch.setattr(startup_report, "_LONG_S", long_s)
    start += [LOADING, httpx.Response(200, json={})]
    startup_report._report(URL, Recorded(), False)
    assert told == [*(["start"] if early else []), "start", "url"]
