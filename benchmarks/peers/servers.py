"""Starts a server in an environment of its own, and says what its processes take."""

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from benchmarks.peers import ours
from benchmarks.peers.arguments import Arguments
from benchmarks.server import ROOT, environment_in, free_port, stop
from benchmarks.transport import fast as fast_ports

TRITON_PATH = "/v2/models/predict/infer"
_START_S = 300.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Peer:
    """command: with the interpreter's folder as {bin} and a port as {port}. needs: beside this project.

    loose: of this project's locked versions those that what it needs cannot live with. forced: against what it asks.
    python: an interpreter that it needs, where there is one. fast: with Ray Serve's settings for throughput.
    """

    command: str
    path: str = "/predict"
    needs: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()
    python: str = sys.executable
    fast: bool = False


PEERS = {
    "FastAPI": Peer(
        "{bin}/uvicorn benchmarks.peers.plain:app --host 127.0.0.1 --port {port} --workers {workers} "
        "--limit-concurrency {most} --log-level warning"
    ),
    "LitServe": Peer("{bin}/python -m benchmarks.peers.lit", needs=("litserve==0.2.19",)),
    "BentoML": Peer(
        "{bin}/bentoml serve benchmarks.peers.bento:Front --host 127.0.0.1 --port {port}",
        needs=("bentoml==1.4.39",),
        loose=("opentelemetry", "wrapt"),
    ),
    "Ray Serve, @serve.batch": Peer("{bin}/python -m benchmarks.peers.batched", fast=True),
    "Triton": Peer(
        "{bin}/python -m benchmarks.peers.triton",
        path=TRITON_PATH,
        needs=("nvidia-pytriton==0.7.0",),
        loose=("opentelemetry", "wrapt", "protobuf", "grpcio", "googleapis", "gevent", "websockets"),
        forced=("numpy",),
        python="/usr/bin/python3.11",  # Debian's: Triton looks for a Python that is a shared library
    ),
}
OURS = {"roadwork-serve": False, "roadwork-serve, fast": True}


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers. url: of predictions. start_s: from its start until it answered."""

    name: str
    url: str
    session: int
    start_s: float = 0.0

    def request(self, photo: bytes) -> tuple[bytes, dict[str, str]]:
        """A body and its headers."""
        if not self.url.endswith(TRITON_PATH):
            return photo, {"Content-Type": "image/jpeg"}
        # https://github.com/kserve/open-inference-protocol, with its extension for binary tensors
        tensor = struct.pack("<I", len(photo)) + photo
        head = json.dumps(
            {
                "inputs": [
                    {"name": "photo", "shape": [1, 1], "datatype": "BYTES",
                     "parameters": {"binary_data_size": len(tensor)}}
                ]
            }
        ).encode()  # fmt: skip
        kind = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        return head + tensor, kind

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
def running(name: str, model: str, workers: int, photo: bytes) -> Iterator[Running]:
    """A server of this name over this model, asked until it answers. Raises RuntimeError with the end of its log.

    workers: that it has, each with its share of the cores.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    told = Arguments(free_port(), model, workers, threads)
    log = ROOT / "build/peers" / f"{_plain(name)}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rw-", ignore_cleanup_errors=True) as folder:
        if name in OURS:
            command, environment = ours.settings(Path(folder), told, fast=OURS[name])
            path = "/v1/classify"
        else:
            peer = PEERS[name]
            command = peer.command.format(
                bin=made(name, peer).parent, port=told.port, workers=workers, most=4 * told.work.batch
            ).split()
            environment, path = environment_in(Path(folder)) | told.to_environment(), peer.path
            if peer.fast:
                environment |= fast_ports(Path(folder))
        environment["OMP_NUM_THREADS"] = str(threads)
        began = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | environment, stdout=output, stderr=output, start_new_session=True
            )
        try:
            server = Running(name, f"http://127.0.0.1:{told.port}{path}", process.pid)
            _answers(process, server, photo, log)
            yield replace(server, start_s=time.monotonic() - began)
        finally:
            stop(process)


def made(name: str, peer: Peer) -> Path:
    """The interpreter of its environment, which is made when it is missing; without more to install, this one."""
    if not peer.needs:
        return Path(sys.executable)
    folder = ROOT / "build/peers" / f"venv-{_plain(name)}"
    found = folder / "bin/python"
    if not (folder / ".ready").is_file():
        uv = str(Path(sys.executable).with_name("uv"))
        base = peer.python if Path(peer.python).exists() else sys.executable
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", base, str(folder)], check=True)
        locked = (ROOT / "constraints.txt").read_text().splitlines()
        constraints, overrides = folder / "constraints.txt", folder / "overrides.txt"
        constraints.write_text("\n".join(line for line in locked if not line.startswith(peer.loose)))
        overrides.write_text("\n".join(line for line in locked if line.partition("==")[0] in peer.forced))
        install = [uv, "pip", "install", "--quiet", "--python", str(found), "--constraints", str(constraints)]
        subprocess.run([*install, "--overrides", str(overrides), "--editable", ".", *peer.needs], check=True, cwd=ROOT)
        (folder / ".ready").touch()
    return found


def _plain(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def _answers(process: subprocess.Popen[bytes], server: Running, photo: bytes, log: Path) -> None:
    body, headers = server.request(photo)
    give_up_at = time.monotonic() + _START_S
    while time.monotonic() < give_up_at and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.post(server.url, content=body, headers=headers, timeout=60).status_code == 200:
                return
        time.sleep(0.2)
    end = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
    raise RuntimeError(f"It does not answer. The end of {log}:\n{end}")
