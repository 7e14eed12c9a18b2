"""Ray nodes on this machine, each started by `ray start` as in docs/cluster.md, and the application on them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.server import RAY_TRIES, ROOT, environment_in, write_config
from roadwork_serve.haproxy import NO_HAPROXY
from roadwork_serve.ports import free_port
from tests.e2e.conftest import eventually, ready

_BIN = Path(sys.executable).parent
# Ray lets no node join over the loopback address and would listen on the network instead.
_START = """
from ray._private import ray_constants, services
from ray.scripts.scripts import main
ray_constants.ENABLE_RAY_CLUSTER, services.resolve_ip_for_localhost = True, lambda host: host
main()
"""
_MEMORY = 80 * 2**20  # of each node's object store, bytes
_NODE_S, _COMMAND_S = 60.0, 60.0


@dataclass(frozen=True, slots=True)
class Node:
    """A Ray node. process: `ray start`, in one session with all its processes. url: of its proxy. log: its output."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def processes(self) -> list[int]:
        """Return the running processes of the node, including `ray start`."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                if os.getsid(int(entry.name)) == self.process.pid and "\nState:\tZ" not in _status(entry):
                    found.append(int(entry.name))
        return found

    def kill(self) -> None:
        """Kill all processes of the node at once, like a power failure."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Nodes:
    """A head and workers. folder: for all files of the nodes. environment: for all processes.

    config: for `serve deploy`. journal: its URL.
    """

    folder: Path
    environment: dict[str, str]
    config: dict[str, Any]
    journal: str
    address: str = ""
    dashboard: str = ""
    head: Node = field(init=False)
    started: list[Node] = field(default_factory=list)

    def start_head(self, cpus: float) -> None:
        """Start the head node; its proxy listens at the configured address."""
        for tries_left in range(RAY_TRIES - 1, -1, -1):
            gcs, client, dashboard = (free_port() for _ in range(3))
            self.address, self.dashboard = f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"
            self.head = self._start(
                "--head", f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
                f"--ray-client-server-port={client}", f"--num-cpus={cpus}",
                http=self.config["http_options"]["port"],
            )  # fmt: skip
            try:
                eventually(self._answers, _NODE_S, "Ray's head answers")
                return
            except AssertionError:
                self.head.kill()
                if not tries_left:
                    raise

    def start_worker(self, cpus: float) -> Node:
        """Start a worker node. Its proxy has its own port, because both nodes are on this machine."""
        before = self.alive()
        node = self._start(f"--address={self.address}", f"--num-cpus={cpus}", http=free_port())
        eventually(lambda: self.alive() > before, _NODE_S, "the node joins")
        return node

    def alive(self) -> int:
        """Return the number of nodes that are alive in Ray's view."""
        summary = self._ask("/nodes?view=summary")["data"]["summary"]
        return sum(each["raylet"].get("state") == "ALIVE" for each in summary)

    def deploy(self) -> None:
        """Run `serve deploy` with the configuration; it returns when Serve has accepted it."""
        file = self.folder / "deploy.yaml"
        file.write_text(yaml.safe_dump(self.config))
        done = subprocess.run(
            [_BIN / "serve", "deploy", "--address", self.dashboard, file],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=_COMMAND_S,
        )  # fmt: skip
        assert done.returncode == 0, f"serve deploy: {done.stdout}{done.stderr}"

    def details(self) -> dict[str, Any]:
        """Return Serve's details of applications, proxies and replicas."""
        return self._ask("/api/serve/applications/")

    def settled(self) -> bool:
        """Return whether every replica of the last deployed version of the application runs."""
        application = self.details()["applications"].get("roadwork", {})
        deployments = application.get("deployments", {}).values()
        return application.get("status") == "RUNNING" and all(each["status"] == "HEALTHY" for each in deployments)

    def ready(self) -> bool:
        """Return whether the application is settled and the head's proxy accepts requests."""
        return self.settled() and ready(self.head.url)

    def pids(self) -> dict[str, list[int]]:
        """Return the processes of the running replicas by deployment."""
        return {name: [replica["pid"] for replica in each] for name, each in self.replicas().items()}

    def replicas(self) -> dict[str, list[dict[str, Any]]]:
        """Return the running replicas by deployment."""
        deployments = self.details()["applications"]["roadwork"]["deployments"]
        return {
            name: [replica for replica in each["replicas"] if replica["state"] == "RUNNING"]
            for name, each in deployments.items()
        }

    def _ask(self, path: str) -> Any:
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.get(self.dashboard + path, headers=headers, timeout=30).raise_for_status().json()

    def _answers(self) -> bool:
        try:
            return self.alive() > 0
        except (httpx.HTTPError, ValueError, KeyError):
            return False

    def _start(self, *options: str, http: int) -> Node:
        log = self.folder / f"node-{len(self.started)}-{time.monotonic_ns()}.log"
        command = [
            sys.executable, "-c", _START, "start", *options, "--node-ip-address=127.0.0.1",
            f"--object-store-memory={_MEMORY}", "--dashboard-agent-listen-port=0", "--disable-usage-stats", "--block",
        ]  # fmt: skip
        environment = self.environment | {"RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(http)}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        node = Node(process, f"http://127.0.0.1:{http}", log)
        self.started.append(node)
        return node


@contextmanager
def nodes(args: Mapping[str, Any], builder: str, cpus: float) -> Iterator[Nodes]:
    """Yield a head without an application; it and all workers are stopped at the end of the block.

    args: of the application. builder: of the application, as `module:function`. cpus: that the head declares.
    """
    folder = Path(tempfile.mkdtemp(prefix="rw-"))  # Ray's socket paths must be short
    _, journal = write_config(folder / "serve.yaml", args, builder)
    config = yaml.safe_load((folder / "serve.yaml").read_text())
    environment = {**os.environ, **environment_in(folder), **NO_HAPROXY}  # each node has a proxy
    del environment["RAY_ADDRESS"]  # `ray start` would take it for the address of a head
    running = Nodes(folder, environment, config, journal)
    try:
        running.start_head(cpus)
        yield running
    finally:
        for node in reversed(running.started):
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _status(entry: Path) -> str:
    return (entry / "status").read_text()
