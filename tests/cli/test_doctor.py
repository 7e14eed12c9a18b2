"""`roadwork doctor`."""

import json
import os
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from roadwork_serve.cli.main import app
from roadwork_serve.ports import free_port


def doctor(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)], env={"COLUMNS": "200"})


def test_it_shows_the_machine_and_what_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadwork_serve.doctor.profile_check.check_host", lambda *_: None)
    port = free_port()
    result = doctor("--port", port, "--state", tmp_path / "state")
    assert result.exit_code == 0, result.output
    topics = ("Python", "System", "Cores", "Memory", "GPUs", f"{port} of 127.0.0.1 is free", "Profile auto chose")
    assert all(topic in result.stdout for topic in topics) and str(tmp_path / "state") in result.stdout
    assert not (tmp_path / "state").exists()


def test_a_problem_ends_it_with_code_2_also_as_json(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = doctor("--port", taken.getsockname()[1], "--state", tmp_path, "--json")
    assert result.exit_code == 2
    found = {each["topic"]: each for each in json.loads(result.stdout)}
    assert found["Port"]["level"] == "problem" and f"process {os.getpid()} listens there" in found["Port"]["text"]
