"""Starts a server in an environment of its own, and says what its processes take."""

import json
import os
import shlex
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
from benchmarks.peers.load import Load
from benchmarks.peers.model import WORKS
from benchmarks.peers.pictures import pictures
from benchmarks.server import ROOT, environment_in, free_port, session, status, stop
from benchmarks.transport import fast as fast_ports

TRITON_PATH = "/v2/models/predict/infer"
_START_S = 300.0
_TRIES = 3  # a port that was free may be somebody's by the time it is listened on
_PATIENT, _ROOM = 6, 1000  # times the limit, and requests at once, of a server that is to refuse nothing
_BROKEN = 20  # answers of 500, after which nothing else is to be expected
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Peer:
    """command: with the interpreter's folder as {bin} and a port as {port}. needs: beside this project.

    loose: of this project's locked versions those that what it needs cannot live with. last: installed over all the
    others, whatever they ask for. python: an interpreter that it needs, where there is one. fast: with Ray Serve's
    settings for throughput.
    """

    command: str
    path: str = "/predict"
    needs: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    python: str = sys.executable
    fast: bool = False


PEERS = {
    "FastAPI": Peer(
        "{bin}/uvicorn benchmarks.peers.plain:app --host 127.0.0.1 --port {port} --workers {workers} "
        "--log-level warning"
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
        last=("numpy==1.26.4",),  # its compiled part reads what numpy 2 has laid out anew as nonsense
        python="/usr/bin/python3.11",  # Debian's: Triton looks for a Python that is a shared library
    ),
}
OURS = {"roadwork-serve": False, "roadwork-serve, fast": True}


@dataclass(frozen=True, slots=True)
class Process:
    """title: as `ps` shows it. cpu_s: processor time so far, seconds."""

    pid: int
    title: str
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers. url: of predictions. start_s: from its start until it answered."""

    name: str
    url: str
    session: int
    start_s: float = 0.0

    def request(self, photo: bytes) -> tuple[bytes, dict[str, str]]:
        """Return a body and its headers."""
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

    def whole(self, answer: bytes) -> bool:
        """Return whether all the work was done for an answer.

        Only this server may skip a stage under load, and its verdict then reports it.
        """
        if self.name not in OURS:
            return True
        verdict = json.loads(answer)
        return verdict["exit"]["reason"] != "deadline" and not verdict["degraded"]

    def load(self, model: str, size: str) -> Load:
        """Of photos of this size, under the limit of this model."""
        return Load(self.url, [self.request(data) for data in pictures(size)], WORKS[model].limit_s, self.whole)

    def cpu_s(self) -> float:
        """Processor time of all its processes so far."""
        return sum(process.cpu_s for process in self.processes())

    def processes(self) -> Iterator["Process"]:
        """All of them."""
        for pid in session(self.session):
            with suppress(OSError):
                stat, command = status(pid), Path(f"/proc/{pid}/cmdline")
                title = command.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                yield Process(pid, title, (int(stat[11]) + int(stat[12])) / _TICKS)

    def memory_mib(self) -> float:
        """Of all its processes; pages that several share count once, in parts."""
        found = 0
        for pid in session(self.session):
            with suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                found += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return found / 1024


@contextmanager
def running(name: str, model: str, workers: int, photo: bytes, per_s: float | None = None) -> Iterator[Running]:
    """Yield a server of this name over this model, asked until it answers. Raises RuntimeError with the end of its log.

    workers: that it has, each with its share of the cores. per_s: what it answers a second, which its bounds are taken
    from; without it none is reached by clients that wait for their answers.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    log = ROOT / "build/peers" / f"{_plain(name)}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rw-", ignore_cleanup_errors=True) as folder:
        limit_s = WORKS[model].limit_s * (1 if per_s else _PATIENT)
        most = max(2 * workers, round(0.8 * limit_s * per_s)) if per_s else _ROOM
        for tries_left in range(_TRIES - 1, -1, -1):
            told = Arguments(free_port(), model, workers, threads, limit_s, most)
            process, server, began = _started(name, told, Path(folder), log)
            try:
                try:
                    _answers(process, server, photo, log)
                except RuntimeError:
                    if tries_left and process.poll() is not None:
                        continue
                    raise
                yield replace(server, start_s=time.monotonic() - began)
                return
            finally:
                stop(process, patience_s=0)  # Ray takes a minute to end in good order, and has nothing to lose here


def _started(name: str, told: Arguments, folder: Path, log: Path) -> tuple[subprocess.Popen[bytes], Running, float]:
    """Return a server that starts, and when it began to."""
    if name in OURS:
        command, environment = ours.settings(folder, told, fast=OURS[name])
        path = "/v1/classify"
    else:
        peer = PEERS[name]
        command = peer.command.format(bin=made(name, peer).parent, port=told.port, workers=told.workers).split()
        environment, path = environment_in(folder) | told.to_environment(), peer.path
        if peer.fast:
            environment |= fast_ports(folder)
    environment["OMP_NUM_THREADS"] = str(told.threads)
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, stdout=output, stderr=output, start_new_session=True
        )
    return process, Running(name, f"http://127.0.0.1:{told.port}{path}", process.pid), began


def made(name: str, peer: Peer) -> Path:
    """Return the interpreter of its environment, which is made when it is missing; without more to install, this one.

    Raises RuntimeError when it cannot be made.
    """
    if not peer.needs:
        return Path(sys.executable)
    folder = ROOT / "build/peers" / f"venv-{_plain(name)}"
    found = folder / "bin/python"
    ready, wanted = folder / ".ready", f"{peer}\n{(ROOT / 'constraints.txt').read_text()}"
    if not ready.is_file() or ready.read_text() != wanted:
        uv = str(Path(sys.executable).with_name("uv"))
        base = peer.python if Path(peer.python).exists() else sys.executable
        _run([uv, "venv", "--quiet", "--clear", "--python", base, str(folder)])
        locked = (ROOT / "constraints.txt").read_text().splitlines()
        constraints, overrides = folder / "constraints.txt", folder / "overrides.txt"
        constraints.write_text("\n".join(line for line in locked if not line.startswith(peer.loose)))
        forced = {each.partition("==")[0] for each in peer.last}
        overrides.write_text("\n".join(line for line in locked if line.partition("==")[0] in forced))
        install = [uv, "pip", "install", "--quiet", "--python", str(found)]
        limits = ["--constraints", str(constraints), "--overrides", str(overrides)]
        _run([*install, *limits, "--editable", ".", *peer.needs])
        if peer.last:
            _run([*install, "--no-deps", *peer.last])
        ready.write_text(wanted)
    return found


def _run(command: list[str]) -> None:
    if ended := subprocess.run(command, cwd=ROOT).returncode:
        raise RuntimeError(f"`{shlex.join(command)}` ended with {ended}")


def _plain(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def _answers(process: subprocess.Popen[bytes], server: Running, photo: bytes, log: Path) -> None:
    body, headers = server.request(photo)
    give_up_at, broken = time.monotonic() + _START_S, 0
    while time.monotonic() < give_up_at and process.poll() is None and broken < _BROKEN:
        with suppress(httpx.TransportError):
            answered = httpx.post(server.url, content=body, headers=headers, timeout=60).status_code
            if answered == 200:
                return
            broken += answered == 500
        time.sleep(0.2)
    end = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
    raise RuntimeError(f"It does not answer. The end of {log}:\n{end}")
