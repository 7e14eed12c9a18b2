"""A server and three miners that share it, under PM2 with ops/ecosystem.config.js, over stages without models."""

import io
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from benchmarks.server import ROOT
from tests.miner.calls import body, headers

PM2 = ROOT / "build/pm2/node_modules/.bin/pm2"
HOTKEYS = ("one", "two", "three")

NEEDS = [
    pytest.mark.skipif(shutil.which("node") is None, reason="PM2 needs node, and there is none"),
    pytest.mark.skipif(not PM2.exists(), reason="PM2 is installed by make test-ops"),
    pytest.mark.timeout(300),
]


@dataclass(frozen=True)
class Miners:
    """Running miners. url: of the server. first_port: of three. environment: of PM2's own commands."""

    url: str
    first_port: int
    environment: dict[str, str]
    folder: Path

    def pm2(self, *arguments: str) -> str:
        command = [str(PM2), *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def processes(self) -> dict[str, dict[str, Any]]:
        """Return PM2's description of each process by name."""
        listing = self.pm2("jlist")
        return {each["name"]: each for each in json.loads(listing[listing.index("[{") :])}

    def pids(self) -> dict[str, int]:
        return {name: each["pid"] for name, each in self.processes().items()}

    def logs(self) -> str:
        files = [self.folder / "pm2/pm2.log", *(self.folder / "logs").iterdir()]
        return "\n".join(f"{file.name}\n{file.read_text(errors='replace')[-4000:]}" for file in files)

    def hotkey(self, number: int) -> str:
        log = (self.folder / "logs" / f"roadwork-{HOTKEYS[number]}.log").read_text()
        return next(line for line in log.splitlines() if "listens on" in line).split(" listens on")[0].split()[-1]

    def ask(self, number: int) -> int | None:
        """Return the status of a signed call to a miner; None if there is no response."""
        try:
            reply = httpx.post(
                f"http://127.0.0.1:{self.first_port + number}/ImageSynapse",
                headers=headers(to=self.hotkey(number)),
                content=body(white() + os.urandom(8)),  # another picture each time
                timeout=12,
            )
        except (httpx.TransportError, OSError, StopIteration):
            return None
        return reply.status_code

    def all_answer(self) -> bool:
        return [self.ask(number) for number in range(3)] == [200, 200, 200]


def white() -> bytes:
    """Return an image that the stages, which have no models, classify as road work."""
    Image.new("RGB", (64, 64), "white").save(buffer := io.BytesIO(), "JPEG")
    return buffer.getvalue()


def ports_in_a_row() -> int:
    """Return the first of three free ports; the ports a thousand above, for the metrics, are free as well."""
    for first in range(21_091, 29_000, 10):
        try:
            for port in (*range(first, first + 3), *range(first + 1000, first + 1003)):
                socket.create_server(("127.0.0.1", port)).close()
            return first
        except OSError:
            continue
    raise AssertionError("no ports are free")


def eventually(happened: Callable[[], bool], within_s: float, what: str | Callable[[], object], miners: Miners) -> None:
    """Wait until the condition holds; fail with `what` if it does not."""
    give_up_at = time.monotonic() + within_s
    while not happened():
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not within {within_s} s: {what() if callable(what) else what}\n{miners.logs()}")
        time.sleep(0.2)
