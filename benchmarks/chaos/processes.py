"""The processes of one server's Ray cluster, found by its session and its folder."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks.chaos.plan import PROXY
from benchmarks.server import Server


def pids(server: Server, target: str) -> list[int]:
    """Return the live processes of a deployment's replicas, or of the HTTP proxy."""
    replica_title = "ray::ProxyActor" if target == PROXY else f"ray::ServeReplica:roadwork:{target}"
    return [pid for pid, title in processes(server) if title == replica_title or title.startswith(f"{replica_title}.")]


def kill(server: Server, target: str) -> int:
    """Kill one process of a target with SIGKILL and return its pid. Raises RuntimeError if there is none."""
    found = pids(server, target)
    if not found:
        raise RuntimeError(f"no process of {target} runs")
    os.kill(found[0], signal.SIGKILL)
    return found[0]


def processes(server: Server) -> Iterator[tuple[int, str]]:
    """Yield pid and title of every process that the server's Ray cluster has started."""
    folder = f"RAY_TMPDIR={server.folder}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with suppress(OSError):  # it has ended, or belongs to another user
            ours = os.getsid(int(entry.name)) == server.pid and folder in (entry / "environ").read_bytes().split(b"\0")
            if ours:
                title = (entry / "cmdline").read_bytes().partition(b"\0")[0]
                yield int(entry.name), title.decode(errors="replace").strip()
