"""The processes of one server's Ray cluster, found by its session and its folder."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks.chaos.plan import PROXY
from benchmarks.server import Server

# HAProxy ends with the first, and falls back to the second, which answers alone without it.
_PROXIES = ("ray::HAProxyManager", "ray::ProxyActor")


def pids(server: Server, target: str) -> list[int]:
    """Return the live processes of a deployment's replicas, or of what answers HTTP."""
    titles = _PROXIES if target == PROXY else (f"ray::ServeReplica:roadwork:{target}",)
    running = list(processes(server))
    found = ([pid for pid, each in running if each == title or each.startswith(f"{title}.")] for title in titles)
    return next(filter(None, found), [])


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
