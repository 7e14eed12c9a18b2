"""Another user of the machine gets nothing from a running server: not by Ray's ports, sockets or files."""

import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.server import DASHBOARD, ROOT, environment_in, session, stop
from roadwork_serve.ports import free_port

START_S = 120.0
# All that is open without a token: Prometheus's metrics, health checks, and the dashboard's empty page, which asks for
# the token. Ray has no switch for it.
OPEN = {
    "Prometheus's metrics, whatever the path",
    "GET / 200",
    "GET /api/authentication_mode 200",
    "GET /api/healthz 200",
    "GET /api/gcs_healthz 200",
    "GET /api/local_raylet_healthz 200",
}
REPLICA_PORTS = (30_000, 31_000)
# Run as the user of the server, who can read all files: only the token is missing.
CONNECT = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); print('joined')"


def _other_user() -> bool:
    try:
        return os.geteuid() == 0 and pwd.getpwnam("nobody").pw_uid != 0
    except KeyError:
        return False


pytestmark = pytest.mark.skipif(not _other_user(), reason="to act as the user nobody, the tests must run as root")


@dataclass(frozen=True)
class Victim:
    """A running server. environment: its variables. http: the port of the application. pid: its first process."""

    folder: Path
    environment: dict[str, str]
    http: int
    pid: int

    @property
    def state(self) -> Path:
        """The state folder."""
        return Path(self.environment["ROADWORK_STATE"])

    def ports(self) -> list[int]:
        """Return all TCP ports on which its processes listen, except for those of the application.

        These are the one that is configured, and those at which HAProxy finds Serve's proxy and the replica.
        """
        inodes = {
            os.readlink(entry)
            for pid in session(self.pid)
            for entry in Path(f"/proc/{pid}/fd").glob("*")
            if entry.is_symlink()
        }
        rows = [
            line.split()
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        ]
        listening = {
            int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes
        }
        behind = {int(self.environment["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"]), *range(*REPLICA_PORTS)}
        return sorted(listening - {self.http} - behind)

    def answers(self, port: int, path: str) -> bool:
        """Return whether a port answers GET, without credentials."""
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5).status_code == 200


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    """Yield a server with one small application, run as `roadwork serve` runs it."""
    folder = Path(tempfile.mkdtemp(prefix="rw-"))
    folder.chmod(0o755)  # only the folders that the product makes protect themselves
    environment = {**os.environ, **environment_in(folder)}
    environment["RAY_TMPDIR"] = str(folder / "tmp")
    (folder / "tmp").mkdir(mode=0o700)
    port = free_port()
    config = {
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [{"name": "hello", "route_prefix": "/", "import_path": "tests.attacks.hello:app"}],
    }
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "deployments.serve_program", str(folder / "serve.yaml")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        give_up_at = time.monotonic() + START_S
        while not _answers(port):
            assert process.poll() is None and time.monotonic() < give_up_at, (folder / "log").read_text()
            time.sleep(0.2)
        while DASHBOARD not in (folder / "log").read_text():
            assert process.poll() is None and time.monotonic() < give_up_at, (folder / "log").read_text()
            time.sleep(0.2)
        yield Victim(folder, environment, port, process.pid)
    finally:
        stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/", timeout=2).text == "hello"
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def found(victim: Victim) -> dict[str, Any]:
    """Return what the user nobody could do; see the program `intruder`."""
    sockets = [
        str(path)
        for place in ("tmp/ray/session_*/sockets/*", "haproxy/*/*")
        for path in victim.folder.glob(place)
        if path.is_socket()
    ]
    assert {"a", "m"} <= {Path(each).name for each in sockets}, "HAProxy's own are among them"
    folders = [str(victim.state), victim.environment["RAY_TMPDIR"]]
    mark = victim.folder / "ran"
    target = {"ports": victim.ports(), "folders": folders, "sockets": sockets, "mark": str(mark)}
    assert len(target["ports"]) > 8 and len(sockets) > 5
    done = subprocess.run(
        [sys.executable, "-m", "tests.attacks.intruder"],
        cwd=ROOT, input=json.dumps(target), capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"mark": mark}


def test_ports_answer_no_call_without_the_token(victim: Victim, found: dict[str, Any]) -> None:
    answers = {port: set(answers) - OPEN for port, answers in found["ports"].items()}
    haproxy = {"METRICS": "/metrics", "STATS": "/stats"}  # both only tell
    for name, path in haproxy.items():
        port = victim.environment[f"RAY_SERVE_HAPROXY_{name}_PORT"]
        told = {each for each in answers.pop(port) if each.startswith("GET ") and each.endswith(" 200")}
        assert victim.answers(int(port), path) and told <= {f"GET {path} 200"}
    assert found["methods"] > 140
    assert {port: each for port, each in answers.items() if each} == {}
    assert not found["mark"].exists()


def test_files_and_sockets_belong_to_the_servers_user_alone(victim: Victim, found: dict[str, Any]) -> None:
    assert found["files"] == [] and found["sockets"] == []
    private = {path: stat.S_IMODE(path.stat().st_mode) for path in (victim.state / "ray").iterdir()}
    assert private == {victim.state / "ray" / name: 0o600 for name in ("token", "address", "url")}


@pytest.mark.parametrize("token", [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}], ids=["none", "wrong"])
def test_nobody_joins_without_the_token(victim: Victim, token: dict[str, str]) -> None:
    address = (victim.state / "ray/address").read_text()
    environment = {name: value for name, value in victim.environment.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run(
        [sys.executable, "-c", CONNECT, address],
        env=environment | {"RAY_AUTH_MODE": "disabled"} | token, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0 and "joined" not in done.stdout
    assert re.search(r"(?i)unauthenticated|authentication token", done.stderr), done.stderr


def test_the_token_opens_the_dashboard(victim: Victim) -> None:
    url = (victim.folder / "log").read_text().partition(DASHBOARD)[2].split()[0]
    path = f"{url}/api/serve/applications/"
    token = (victim.state / "ray/token").read_text()
    assert httpx.get(path, headers={"Host": "evil.com"}).status_code == 401
    assert httpx.get(path, headers={"Authorization": f"Bearer {token}"}).json()["applications"]["hello"]
