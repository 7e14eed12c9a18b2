"""Starts a server in an environment of its own, and says what its processes take."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.peers import ours
from benchmarks.server import ROOT, environment_in, free_port, stop

_START_S = 300.0
_TICKS = os.sysconf("SC_CLK_TCK")
# What each needs beside this project and its locked versions.
PEERS = {
    "FastAPI": ("benchmarks.peers.plain", ()),
    "LitServe": ("benchmarks.peers.lit", ("litserve==0.2.19",)),
    "Ray Serve, @serve.batch": ("benchmarks.peers.batched", ()),
}
OURS = {"roadwork-serve": False, "roadwork-serve, fast": True}


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers. url: of predictions. start_s: from its start until it answered."""

    name: str
    url: str
    start_s: float
    session: int

    def cpu_s(self) -> float:
        """Processor time of all its processes so far."""
        return sum(int(each[11]) + int(each[12]) for each in self._stats()) / _TICKS

    def memory_mib(self) -> float:
        """Of all its processes; pages that several share count once, in parts."""
        found = 0
        for entry in self._processes():
            with suppress(OSError):
                lines = (entry / "smaps_rollup").read_text().splitlines()
                found += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return found / 1024

    def _stats(self) -> Iterator[list[str]]:
        for entry in self._processes():
            with suppress(OSError):
                yield (entry / "stat").read_text().rpartition(")")[2].split()

    def _processes(self) -> Iterator[Path]:
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    if os.getsid(int(entry.name)) == self.session:
                        yield entry


@contextmanager
def running(name: str, model: str, threads: int, photo: bytes) -> Iterator[Running]:
    """A server of this name over this model, asked until it answers. Raises RuntimeError with the end of its log."""
    port = free_port()
    log = ROOT / "build/peers" / f"{name.split(',')[0].replace(' ', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rw-", ignore_cleanup_errors=True) as folder:
        if name in OURS:
            command, environment = ours.settings(Path(folder), port, model, threads, OURS[name])
            path = "/v1/classify"
        else:
            module, extra = PEERS[name]
            command = [str(python(name, extra)), "-m", module, str(port), model, str(threads)]
            environment, path = environment_in(Path(folder)), "/predict"
        began = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | environment, stdout=output, stderr=output, start_new_session=True
            )
        try:
            url = f"http://127.0.0.1:{port}{path}"
            _answers(process, url, photo, log)
            yield Running(name, url, time.monotonic() - began, process.pid)
        finally:
            stop(process)


def python(name: str, extra: Sequence[str]) -> Path:
    """The interpreter of its environment, which is made when it is missing; without more to install, of this one."""
    if not extra:
        return Path(sys.executable)
    folder = ROOT / "build/peers" / f"venv-{name}"
    found = folder / "bin/python"
    if not (folder / ".ready").is_file():
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(found), "--constraints", "constraints.txt"]
        subprocess.run([*install, "--editable", ".", *extra], check=True, cwd=ROOT)
        (folder / ".ready").touch()
    return found


def _answers(process: subprocess.Popen[bytes], url: str, photo: bytes, log: Path) -> None:
    give_up_at = time.monotonic() + _START_S
    while time.monotonic() < give_up_at and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.post(url, content=photo, headers={"Content-Type": "image/jpeg"}, timeout=60).status_code == 200:
                return
        time.sleep(0.2)
    end = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
    raise RuntimeError(f"It does not answer. The end of {log}:\n{end}")
