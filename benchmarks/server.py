"""Starts servers for benchmarks and tests, each on a free loopback port with its own Ray, and stops them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from roadwork_serve.haproxy import haproxy_environment
from roadwork_serve.ports import free_port
from roadwork_serve.ray_environment import ray_environment
from roadwork_serve.state_folder import VARIABLE

ROOT = Path(__file__).parents[1]
START_S = 240.0
DASHBOARD = "  Dashboard  "  # begins the last line of a start
DASHBOARD_S = 60.0
STOP_S = 60.0
KILL_S = 5.0
RAY_TRIES = 3
RAY_WAS_SLOW = "timed out during startup"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    url: str
    #: Folder of its Ray cluster.
    folder: Path
    #: Its first process, which leads the session of all others.
    pid: int
    #: URL of its journal, which is deleted with the folder.
    journal: str


@contextmanager
def own_server(log: Path, profile: str = "auto", start_s: float = START_S) -> Iterator[str]:
    """Start the application of serve_config.yaml, yield its URL once it is ready, and kill it; see `started`."""
    with started(log, {"profile": profile}, start_s=start_s, patience_s=0) as server:
        yield server.url


@contextmanager
def started(
    log: Path,
    args: Mapping[str, Any],
    environment: Mapping[str, str] = {},
    builder: str | None = None,
    start_s: float = START_S,
    scaling: Mapping[str, float] | None = None,
    patience_s: float = STOP_S,
    settled: bool = False,
) -> Iterator[Server]:
    """Start the application of serve_config.yaml and yield the server once it is ready.

    Args:
        log: file for its output.
        args: arguments of the application that replace those in the file.
        environment: environment variables for all its processes.
        builder: another application builder, as `module:function`.
        start_s: time for it to become ready.
        scaling: settings of the autoscaling policy.
        patience_s: time for an orderly stop; 0 kills at once.
        settled: wait for the dashboard, too; it starts after the server, and takes seconds of a core from it.

    Raises:
        RuntimeError: with the end of the log, if it does not become ready.
    """
    folder = Path(tempfile.mkdtemp(prefix="rw-"))  # Ray's socket paths must be short
    port, journal = write_config(folder / "serve.yaml", args, builder, scaling)
    variables = {**os.environ, **environment_in(folder), **environment}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)  # a dozen processes would each compile Ray anew
    log.parent.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    try:
        process = _ready(folder / "serve.yaml", variables, log, url, start_s)
        try:
            if settled:
                wait_for_dashboard(log)
            yield Server(url, folder, process.pid, journal)
        finally:
            stop(process, patience_s)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_config(
    file: Path, args: Mapping[str, Any], builder: str | None = None, scaling: Mapping[str, float] | None = None
) -> tuple[int, str]:
    """Write serve_config.yaml with a free port and its own journal. Return the port and the URL."""
    port = free_port()
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["http_options"]["port"] = port
    application = config["applications"][0]
    application["args"] |= args
    overrides = dict(application["args"].get("overrides", {}))
    journal = journal_in(file.parent) | overrides.get("journal", {})
    application["args"]["overrides"] = overrides | {"journal": journal}
    application["import_path"] = builder or application["import_path"]
    if scaling is not None:
        application["autoscaling_policy"]["policy_kwargs"] = dict(scaling)
    file.write_text(yaml.safe_dump(config))
    return port, journal["url"]


def environment_in(folder: Path) -> dict[str, str]:
    """Return the environment of `roadwork serve`, for a new Ray cluster that keeps all its files in a folder."""
    own = {VARIABLE: str(folder / "state"), "RAY_ADDRESS": "local", "RAY_TMPDIR": str(folder)}
    proxy = haproxy_environment(folder / "haproxy", ROOT / "ops/haproxy/haproxy.sh")
    return ray_environment(own) | proxy | own | {"PYTHONPATH": str(ROOT)}


def journal_in(folder: Path) -> dict[str, str]:
    """Return the journal settings of a profile that keep all its files in a folder."""
    return {
        "url": f"sqlite:///{folder / 'journal.db'}",
        "spool_folder": str(folder / "spool"),
        "media_folder": str(folder / "media"),
    }


def _ready(config: Path, environment: dict[str, str], log: Path, url: str, start_s: float) -> subprocess.Popen[bytes]:
    """Start a server and wait for it. Retries if Ray gives up after 15 or 30 s on a busy machine."""
    for tries_left in range(RAY_TRIES - 1, -1, -1):
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "deployments.serve_program", str(config)],
                cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        ready = False
        try:
            wait_until_ready(f"{url}/readyz", process, log, start_s)
            ready = True
            return process
        except RuntimeError:
            if not tries_left or RAY_WAS_SLOW not in log.read_text(errors="replace"):
                raise
        finally:
            if not ready:
                stop(process)
    raise AssertionError("the last try returns or raises")


def wait_until_ready(health: str, process: subprocess.Popen[bytes], log: Path, start_s: float) -> None:
    """Wait until a URL answers with status 200.

    Raises:
        RuntimeError: with the end of the log, if the process ends before or it takes longer.
    """
    give_up_at = time.monotonic() + start_s
    while time.monotonic() < give_up_at and process.poll() is None:
        try:
            if httpx.get(health, timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.25)
    raise RuntimeError(f"The server was not ready within {start_s:.0f} s. The end of {log}:\n{_end(log)}")


def wait_for_dashboard(log: Path) -> None:
    """Wait until a start has said in its log where the dashboard is.

    Raises:
        RuntimeError: with the end of the log, if it does not.
    """
    give_up_at = time.monotonic() + DASHBOARD_S
    while DASHBOARD not in log.read_text(errors="replace"):
        if time.monotonic() >= give_up_at:
            raise RuntimeError(f"The dashboard was not up within {DASHBOARD_S:.0f} s. The end of {log}:\n{_end(log)}")
        time.sleep(0.2)


def _end(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-25:])


def end_in_order() -> None:
    """Exit on SIGTERM as on Ctrl-C, so that this process stops what it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def stop(process: subprocess.Popen[bytes], patience_s: float = STOP_S) -> None:
    """Interrupt a session leader as Ctrl-C would, then kill all processes that it started.

    Args:
        process: the session leader.
        patience_s: time between the two; 0 kills at once.
    """
    started = session(process.pid)
    try:
        if patience_s and process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
    finally:  # a test's timeout may end the wait
        _kill(process, started)


def _kill(process: subprocess.Popen[bytes], started: Mapping[int, str]) -> None:
    """Kill a session leader and the processes it started, given with their start times."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    give_up_at = time.monotonic() + KILL_S
    while (
        remaining := [pid for pid, began in started.items() if _is_alive(pid, began)]
    ) and time.monotonic() < give_up_at:
        for pid in remaining:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _is_alive(pid: int, began: str) -> bool:
    """Return whether the process still runs and its pid has not been reused."""
    with suppress(OSError):
        stat = status(pid)
        return stat[0] != "Z" and stat[19] == began
    return False


def session(leader: int) -> dict[int, str]:
    """Return the live processes of a session and of those that it started, with start times."""
    stats: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                stats[int(entry.name)] = status(int(entry.name))
    members = {pid for pid, stat in stats.items() if int(stat[3]) == leader}
    while children := {pid for pid, stat in stats.items() if int(stat[1]) in members} - members:
        members |= children
    return {pid: stats[pid][19] for pid in sorted(members) if stats[pid][0] != "Z"}


def status(pid: int) -> list[str]:
    """Return the fields after the name in /proc/PID/stat: state, parent, group, session, ..., start time."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
