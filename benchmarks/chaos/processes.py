"""The processes of one server's own Ray, found by the session they were started in and its folder."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks.chaos.plan import PROXY
from benchmarks.server import Server


def pids(server: Server, target: str) -> list[int]:
    """Return the live processes of a deployment's replicas, or of the HTTP proxy."""
    wanted = "ray::ProxyActor" if target == PROXY else f"ray::ServeReplica:roadwork:{target}"
    return [pid for pid, title in processes(server) if title == wanted or title.startswith(f"{wanted}.")]


def kill(server: Server, target: str) -> int:
    """Kill one with SIGKILL and say which. Raises RuntimeError when there is none."""
    found = pids(server, target)
    if not found:
        raise RuntimeError(f"no process of {target} runs")
    os.kill(found[0], signal.SIGKILL)
    return found[0]


def processes(server: Server) -> Iterator[tuple[int, str]]:
    """Pid and title of every process that the server's Ray has started."""
    folder = f"RAY_TMPDIR={server.folder}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with suppress(OSError):  # it is gone, or somebody else's
            ours = os.getsid(int(entry.name)) == server.pid and folder in (entry / "environ").read_bytes().split(b"\0")
            if ours:
                title = (entry / "cmdline").read_bytes().partition(b"\0")[0]
                yield int(entry.name), title.decode(errors="replace").strip()
