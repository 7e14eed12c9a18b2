"""The settings of HAProxy, without a server."""

import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from roadwork_serve.cli.main import app
from roadwork_serve.errors import ConfigError
from roadwork_serve.haproxy import haproxy_environment
from roadwork_serve.ray_environment import RAY

ROOT = Path(__file__).parents[1]
WRAPPER = ROOT / "ops/haproxy/haproxy.sh"
WRITTEN = """global
defaults
    option splice-request
    option splice-response
frontend prometheus
    bind :9101
frontend http_frontend
    bind *:8000
listen stats
  bind *:8404
"""  # in short, what Serve writes
MENDED = """global
    tune.http.maxhdr 2048
defaults
    timeout http-request 10s
    option splice-response
frontend prometheus
    bind 127.0.0.1:9101
frontend http_frontend
    option forwardfor
    option disable-h2-upgrade
    http-request del-header upgrade
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


@pytest.fixture
def short() -> Iterator[Path]:
    """Yield a folder with a short path, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="rw-") as folder:
        yield Path(folder)


def test_the_program_and_the_wrapper_exist(short: Path) -> None:
    settings = haproxy_environment(short, WRAPPER)
    for name in ("ROADWORK_HAPROXY", "RAY_SERVE_HAPROXY_BINARY_PATH"):
        assert os.access(settings[name], os.X_OK)


def test_its_ports_are_free_and_no_system_gives_them_to_connections(short: Path) -> None:
    ports = {int(value) for name, value in haproxy_environment(short, WRAPPER).items() if name.endswith("_PORT")}
    assert len(ports) == 3 and all(20_000 <= port < 30_000 for port in ports)


def test_a_path_that_is_too_long_for_a_socket_is_an_error(short: Path) -> None:
    with pytest.raises(ConfigError, match="name a shorter RAY_TMPDIR, or add --no-haproxy"):
        haproxy_environment(short / ("x" * 40), WRAPPER)


@pytest.mark.parametrize(
    ("words", "installed", "cluster", "expected"),
    [
        ([], True, "", True),
        (["--no-haproxy"], True, "", False),
        (["--host", "0.0.0.0"], True, "", True),
        (["--host", "10.1.2.3"], True, "", False),
        ([], False, "", False),
        ([], True, "10.0.0.1:6379", False),
    ],
)
def test_haproxy_is_the_default_where_it_is_installed(
    tmp_path: Path,
    short: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    installed: bool,
    cluster: str,
    expected: bool,
) -> None:
    seen: dict[str, str] = {}
    shutil.copy(ROOT / "serve_config.yaml", tmp_path)
    monkeypatch.setattr("roadwork_serve.cli.serve._PROJECT", tmp_path)
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own |= {"ROADWORK_STATE": str(tmp_path / "state"), "RAY_TMPDIR": str(short), "RAY_ADDRESS": cluster}
    monkeypatch.setattr(os, "environ", own)
    monkeypatch.setattr(os, "chdir", lambda path: None)
    monkeypatch.setattr(os, "execv", lambda program, arguments: seen.update(os.environ))
    if not installed:
        monkeypatch.setattr("roadwork_serve.haproxy.find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["serve", *words])
    assert done.exit_code == 0, done.output
    assert (seen.get("RAY_SERVE_ENABLE_HA_PROXY") == "1") is expected
    assert seen["RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S"] == RAY["RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S"]
    folder = short / "h8000"
    assert folder.exists() is expected and (not expected or folder.stat().st_mode & 0o777 == 0o700)


@pytest.mark.parametrize("given", [{}, {"port": 8123}, {"host": "0.0.0.0"}])
def test_only_a_host_in_the_configuration_leaves_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, object]
) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({"http_options": given, "applications": [{}]}))
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"ROADWORK_STATE": str(tmp_path / "state")})
    monkeypatch.setattr(os, "chdir", lambda path: None)
    started: list[str] = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: started.extend(arguments))
    assert CliRunner().invoke(app, ["serve", "--config", str(file)]).exit_code == 0
    options = yaml.safe_load(Path(started[3]).read_text())["http_options"]
    assert options == {"host": "127.0.0.1", "port": 8000} | given
