"""`roadwork console`, and the admin token that commands send to this user's own server."""

import webbrowser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from roadwork_serve.api.api_keys import ADMIN_TOKEN
from roadwork_serve.cli.main import app
from roadwork_serve.cli.server_client import server_client
from roadwork_serve.console_link import console_link
from roadwork_serve.running_server import RunningServer, publishing
from roadwork_serve.state_folder import secret_file

URL = "http://127.0.0.1:8000"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROADWORK_STATE", str(tmp_path))
    monkeypatch.delenv("ROADWORK_API_KEY", raising=False)
    return tmp_path


def sent(url: str) -> str:
    with server_client(url) as client:
        return client._headers.get("Authorization", "")


def test_the_link_carries_the_token_of_the_running_server(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = CliRunner().invoke(app, ["console"])
    assert gone.exit_code == 2 and "no server of yours is running" in gone.stderr
    token = secret_file(state / ADMIN_TOKEN).read_text()
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) is None)
    with publishing(state) as publish:
        publish(RunningServer("127.0.0.1:6379", URL))
        assert CliRunner().invoke(app, ["console"]).stdout == f"{URL}/#token={token}\n"
        assert CliRunner().invoke(app, ["console", "--open"]).exit_code == 0
    (page,) = opened
    file = Path(page.removeprefix("file://"))
    assert token not in page and console_link(URL, token) in file.read_text() and file.stat().st_mode & 0o777 == 0o600


def test_without_a_browser_the_link_can_be_printed(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    with publishing(state) as publish:
        publish(RunningServer("127.0.0.1:6379", URL))
        assert CliRunner().invoke(app, ["console"]).stdout == f"{URL}/\n"  # a server with keys has no token
        result = CliRunner().invoke(app, ["console", "--open"])
    assert result.exit_code == 2 and "print the link with `roadwork console`" in result.stderr


def test_the_token_is_sent_to_this_users_running_server_alone(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = secret_file(state / ADMIN_TOKEN).read_text()
    assert sent(URL) == ""  # whoever listens there is not the server
    with publishing(state) as publish:
        assert sent(URL) == ""
        publish(RunningServer("127.0.0.1:6379", URL))
        assert sent(URL) == sent(f"{URL}/") == sent("http://localhost:8000") == f"Bearer {token}"
        for other in ("http://127.0.0.1:8001", "http://road.example:8000", "https://127.0.0.1:8000"):
            assert sent(other) == ""
        monkeypatch.setenv("ROADWORK_API_KEY", "rw_mine")
        assert sent(URL) == "Bearer rw_mine"
