"""`miner.py --check`, and what a miner says when what it needs is missing: a line each, and an exit code."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from roadwork_serve.errors import MediaError, StageLost
from roadwork_serve.miner.preflight import run_checks
from roadwork_serve.miner.service import bind_socket
from roadwork_serve.miner.settings import MinerSettings, load_settings
from tests.miner.calls import VALIDATOR, Said
from tests.miner.test_service import free_port

ROOT = Path(__file__).parents[2]


def told(folder: Path, *flags: str) -> MinerSettings:
    standing = ["--offline", "--allow", VALIDATOR.ss58_address, "--state", str(folder), "--port", str(free_port())]
    return load_settings([*standing, *flags])


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return the result of each check."""
    return {line.split()[1].rstrip(":"): line for line in capsys.readouterr().out.splitlines()}


async def test_all_that_is_well_is_said_in_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cascade = Said()
    cascade.error = MediaError("no picture")
    assert await run_checks(told(tmp_path), cascade) == 0
    found = lines(capsys)
    assert list(found) == ["hotkey", "port", "cascade", "chain"]
    assert all(line.startswith("ok ") for line in found.values())
    assert len(cascade.asked) == 1, "the cascade was really asked"


async def test_each_thing_that_is_wrong_is_said_and_the_others_are_looked_at_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by, cascade = told(tmp_path), Said()
    cascade.away = 1
    with bind_socket("127.0.0.1", by.port):
        assert await run_checks(by, cascade) == 1
    found = lines(capsys)
    assert {name for name, line in found.items() if line.startswith("FAILED")} == {"port", "cascade"}
    assert "free it" in found["port"] and "no application" in found["cascade"]


async def test_what_does_not_answer_is_given_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roadwork_serve.miner.preflight._TIMEOUT_S", 0.05)
    cascade = Said()
    cascade.gate = asyncio.Event()
    assert await run_checks(told(tmp_path), cascade) == 1
    assert lines(capsys)["cascade"].startswith("FAILED")


async def test_a_cascade_that_fails_is_not_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cascade = Said()
    cascade.error = StageLost("roadwork is lost")
    assert await run_checks(told(tmp_path), cascade) == 1
    assert "roadwork is lost" in lines(capsys)["cascade"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--server", "http://127.0.0.1:9"], "no response from http://127.0.0.1:9"),
        (["--app", "nowhere"], "there is no application nowhere of Ray Serve on this machine"),
        (["--wallet", "no/body"], "there is no hotkey at"),
        (["--deny", "me"], "me is not a hotkey"),
    ],
)
def test_what_is_missing_is_said_in_one_line_with_an_exit_code(tmp_path: Path, flags: list[str], told: str) -> None:
    offline = [] if "--wallet" in flags else ["--offline", "--allow", VALIDATOR.ss58_address]
    command = [sys.executable, "miner.py", "--state", str(tmp_path), "--wallet-path", str(tmp_path), *offline, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("miner: ")]
    assert len(lines) == 1 and told in lines[0]
    assert "Traceback" not in done.stderr


def test_help_names_every_setting_and_what_it_is_for() -> None:
    command = [sys.executable, "miner.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"COLUMNS": "120"}, capture_output=True, text=True)
    assert done.returncode == 0
    for name, field in MinerSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in done.stdout
        assert str(field.description).split()[0] in done.stdout
