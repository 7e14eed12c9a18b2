"""`miner.py --check`, and the one-line errors and exit codes of missing requirements."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from roadwork_serve.errors import MediaError, StageLost
from roadwork_serve.miner.addresses import bind_socket
from roadwork_serve.miner.preflight import run_checks
from roadwork_serve.miner.settings import MinerSettings, load_settings
from roadwork_serve.ports import free_port
from tests.miner.calls import VALIDATOR, FakeCascade

ROOT = Path(__file__).parents[2]


def make_settings(folder: Path, *flags: str) -> MinerSettings:
    standing = ["--offline", "--allow", VALIDATOR.ss58_address, "--state", str(folder), "--port", str(free_port())]
    return load_settings([*standing, *flags])


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return the result of each check."""
    return {line.split()[1].rstrip(":"): line for line in capsys.readouterr().out.splitlines()}


async def test_every_passed_check_prints_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cascade = FakeCascade()
    cascade.error = MediaError("no picture")
    assert await run_checks(make_settings(tmp_path), cascade) == 0
    found = lines(capsys)
    assert list(found) == ["hotkey", "port", "cascade", "chain"]
    assert all(line.startswith("ok ") for line in found.values())
    assert len(cascade.asked) == 1, "the cascade was really asked"


async def test_every_failed_check_is_reported_and_the_others_still_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, cascade = make_settings(tmp_path), FakeCascade()
    cascade.away = 1
    with bind_socket("127.0.0.1", settings.port):
        assert await run_checks(settings, cascade) == 1
    found = lines(capsys)
    assert {name for name, line in found.items() if line.startswith("FAILED")} == {"port", "cascade"}
    assert "free it" in found["port"] and "no application" in found["cascade"]


async def test_a_check_that_hangs_fails_after_a_timeout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roadwork_serve.miner.preflight._TIMEOUT_S", 0.05)
    cascade = FakeCascade()
    cascade.gate = asyncio.Event()
    assert await run_checks(make_settings(tmp_path), cascade) == 1
    assert lines(capsys)["cascade"].startswith("FAILED")


async def test_a_failing_cascade_fails_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cascade = FakeCascade()
    cascade.error = StageLost("roadwork is lost")
    assert await run_checks(make_settings(tmp_path), cascade) == 1
    assert "roadwork is lost" in lines(capsys)["cascade"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--server", "http://127.0.0.1:9"], "no response from http://127.0.0.1:9"),
        (["--app", "nowhere"], "there is no application nowhere of Ray Serve (no server of yours is running"),
        (["--wallet", "no/body"], "there is no hotkey at"),
        (["--deny", "me"], "me is not a hotkey"),
    ],
)
def test_a_missing_requirement_is_a_one_line_error_with_exit_code_2(
    tmp_path: Path, flags: list[str], message: str
) -> None:
    offline = [] if "--wallet" in flags else ["--offline", "--allow", VALIDATOR.ss58_address]
    command = [sys.executable, "miner.py", "--state", str(tmp_path), "--wallet-path", str(tmp_path), *offline, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("miner: ")]
    assert len(lines) == 1 and message in lines[0]
    assert "Traceback" not in done.stderr


def test_help_lists_every_setting_with_its_description() -> None:
    command = [sys.executable, "miner.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"COLUMNS": "120"}, capture_output=True, text=True)
    assert done.returncode == 0
    for name, field in MinerSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in done.stdout
        assert str(field.description).split()[0] in done.stdout
