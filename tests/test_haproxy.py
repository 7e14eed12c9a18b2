"""The settings of `roadwork serve --fast`, without a server."""

import contextlib
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from roadwork_serve.cli.main import app
from roadwork_serve.errors import ConfigError
from roadwork_serve.haproxy import fast_environment
from roadwork_serve.ray_environment import RAY

ROOT = Path(__file__).parents[1]
WRAPPER = ROOT / "ops/haproxy/haproxy.sh"
WRITTEN = """defaults
    option splice-request
    option splice-response
frontend prometheus
    bind :9101
frontend http_frontend
    bind *:8000
listen stats
  bind *:8404
"""  # in short, what Serve writes
MENDED = """defaults
    option splice-response
frontend prometheus
    bind 127.0.0.1:9101
frontend http_frontend
    bind *:8000
listen stats
  bind 127.0.0.1:8404
"""


def test_haproxy_gets_a_patched_file_and_unchanged_arguments(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(WRITTEN)
    environment = {"PATH": os.environ["PATH"], "ROADWORK_HAPROXY": "/bin/echo"}
    arguments = ["-db", "-f", str(file), "-sf", "12 3"]
    done = subprocess.run([WRAPPER, *arguments], env=environment, capture_output=True, text=True, check=True)
    assert file.read_text() == MENDED
    assert done.stdout.strip() == " ".join(arguments)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not there")
def test_haproxy_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    stand_in, file = tmp_path / "haproxy", tmp_path / "haproxy.cfg"
    file.write_text(WRITTEN)
    stand_in.write_text("#!/bin/sh\necho $$\nexec sleep 60\n")
    stand_in.chmod(0o755)
    parent = f"import subprocess, sys; subprocess.Popen({[str(WRAPPER), '-db', '-f', str(file)]}).wait()"
    environment = {"PATH": os.environ["PATH"], "ROADWORK_HAPROXY": str(stand_in)}
    with subprocess.Popen(
        [sys.executable, "-c", parent], env=environment, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        child = int(running.stdout.readline())
        running.kill()
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        assert select.select([os.pidfd_open(child)], [], [], 5)[0], "it goes on without its parent"


def test_the_program_and_the_wrapper_exist(tmp_path: Path) -> None:
    settings = fast_environment(tmp_path, WRAPPER)
    for name in ("ROADWORK_HAPROXY", "RAY_SERVE_HAPROXY_BINARY_PATH"):
        assert os.access(settings[name], os.X_OK)


def test_without_haproxy_fast_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadwork_serve.haproxy.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="serve without --fast"):
        fast_environment(tmp_path, WRAPPER)


@pytest.mark.parametrize("fast", [True, False])
def test_serve_fast_sets_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    seen: dict[str, str] = {}
    shutil.copy(ROOT / "serve_config.yaml", tmp_path)
    monkeypatch.setattr("roadwork_serve.cli.serve._PROJECT", tmp_path)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(os, "chdir", lambda path: None)
    monkeypatch.setattr(os, "execv", lambda program, arguments: seen.update(os.environ))
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: str(tmp_path))
    done = CliRunner().invoke(app, ["serve", "--fast"] if fast else ["serve"])
    assert done.exit_code == 0
    assert ("HAProxy instead of Ray Serve's proxy" in done.stderr) is fast
    assert (seen.get("RAY_SERVE_ENABLE_HA_PROXY") == "1") is fast
    assert seen["RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S"] == RAY["RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S"]
