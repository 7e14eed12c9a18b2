"""Starts each server in its own environment, and measures the resources of its processes."""

import json
import os
import shlex
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from benchmarks.peers import ours
from benchmarks.peers.arguments import Arguments
from benchmarks.peers.cores import SERVER, count_cores, pinned
from benchmarks.peers.load import Load
from benchmarks.peers.pictures import pictures
from benchmarks.peers.workloads import RELAXED_LIMIT, WORKLOADS
from benchmarks.server import ROOT, environment_in, session, status, stop, wait_for_dashboard
from benchmarks.soak.samples import role
from benchmarks.usage import memory_mib, title
from roadwork_serve.ports import free_port

TRITON_PATH = "/v2/models/predict/infer"
_START_S = 300.0
_TRIES = 3  # another process may take a free port before the server listens on it
_RELAXED_IN_FLIGHT = 1000  # requests in flight, for a server that rejects nothing
_MAX_FAILURES = 20  # responses with status 500 after which the start counts as failed
_TICKS = os.sysconf("SC_CLK_TCK")
_PROJECT = ".[models]"  # PyTorch is not in every installation


@dataclass(frozen=True, slots=True)
class Peer:
    """Another server, and the environment that it needs."""

    #: With {bin} for the interpreter's folder and {port} for the port.
    command: str
    path: str = "/predict"
    #: Packages to install beside this project.
    packages: tuple[str, ...] = ()
    #: Prefixes of this project's pinned packages that conflict with them.
    unpinned: tuple[str, ...] = ()
    #: Packages installed last, whatever the others require.
    forced: tuple[str, ...] = ()
    #: Interpreter that it needs, if it exists.
    python: str = sys.executable


PEERS = {
    "FastAPI": Peer(
        "{bin}/uvicorn benchmarks.peers.fastapi_app:app --host 127.0.0.1 --port {port} --workers {workers} "
        "--log-level warning"
    ),
    "LitServe": Peer("{bin}/python -m benchmarks.peers.lit", packages=("litserve==0.2.19",)),
    "BentoML": Peer(
        "{bin}/bentoml serve benchmarks.peers.bento:Front --host 127.0.0.1 --port {port}",
        packages=("bentoml==1.4.39",),
        unpinned=("opentelemetry", "wrapt"),
    ),
    "Ray Serve, @serve.batch": Peer("{bin}/python -m benchmarks.peers.ray_serve_app"),
    "Triton": Peer(
        "{bin}/python -m benchmarks.peers.triton",
        path=TRITON_PATH,
        packages=("nvidia-pytriton==0.7.0",),
        unpinned=("opentelemetry", "wrapt", "protobuf", "grpcio", "googleapis", "gevent", "websockets"),
        forced=("numpy==1.26.4",),  # its compiled code does not support the memory layout of numpy 2
        python="/usr/bin/python3.11",  # Debian's: Triton needs a Python built as a shared library
    ),
}
OURS = {"roadwork-serve": True, "roadwork-serve, no journal": False}  # with a journal?


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a server."""

    pid: int
    #: As shown by `ps`.
    title: str
    #: Processor time so far.
    cpu_s: float


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers."""

    name: str
    #: Of predictions.
    url: str
    #: Session of its processes.
    session: int
    #: Time from its start until it answered.
    start_s: float = 0.0

    def request(self, photo: bytes) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers of a request."""
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

    def is_complete(self, answer: bytes) -> bool:
        """Return whether all the work was done for an answer.

        Only this server may skip a stage under load, and its verdict then reports it.
        """
        if self.name not in OURS:
            return True
        verdict = json.loads(answer)
        return verdict["exit"]["reason"] != "deadline" and not verdict["degraded"]

    def load(self, model: str, size: str) -> Load:
        """Return a load of photos of this size, with the latency limit of this model."""
        return Load(
            self.url, [self.request(data) for data in pictures(size)], WORKLOADS[model].limit_s, self.is_complete
        )

    def by_pid(self) -> dict[int, "Process"]:
        """Return its processes by their number."""
        return {process.pid: process for process in self.processes()}

    def rest_ms_per_s(self, seconds: float) -> float:
        """Return its processor time per second, over so many seconds in which nothing is sent."""
        before, began = self.by_pid(), time.monotonic()
        time.sleep(seconds)
        return 1000 * sum(spent_s(before, self.by_pid()).values()) / (time.monotonic() - began)

    def processes(self) -> Iterator["Process"]:
        """Yield its processes."""
        for pid in session(self.session):
            with suppress(OSError):
                stat = status(pid)
                yield Process(pid, title(pid), (int(stat[11]) + int(stat[12])) / _TICKS)

    def memory_mib(self) -> float:
        """Return the memory of all its processes; shared pages count once."""
        found = 0.0
        for pid in session(self.session):
            with suppress(OSError):
                found += memory_mib(pid)
        return found


def spent_s(before: Mapping[int, Process], after: Mapping[int, Process]) -> dict[str, float]:
    """Return the processor time between two readings by role, of the processes that are there at the second."""
    spent: dict[str, float] = {}
    for pid, process in after.items():
        name, began_s = role(process.title), before[pid].cpu_s if pid in before else 0.0
        spent[name] = spent.get(name, 0.0) + process.cpu_s - began_s
    return spent


@contextmanager
def running(name: str, model: str, workers: int, photo: bytes, per_s: float | None = None) -> Iterator[RunningServer]:
    """Start a server for a model and yield it once it answers.

    Args:
        name: of the server.
        model: of the workload.
        workers: number of workers, each with its share of the cores.
        photo: for the requests that test whether it answers.
        per_s: its throughput, from which its limits are derived; without it, closed-loop clients do not reach them.

    Raises:
        RuntimeError: with the end of the log, if it does not answer.
    """
    workload = WORKLOADS[model]
    threads = max(1, count_cores(workload) // workers)
    log = ROOT / "build/peers" / f"{_slug(name)}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rw-", ignore_cleanup_errors=True) as folder:
        limit_s = workload.limit_s * (1 if per_s else RELAXED_LIMIT)
        max_in_flight = max(2 * workers, round(0.8 * limit_s * per_s)) if per_s else _RELAXED_IN_FLIGHT
        for tries_left in range(_TRIES - 1, -1, -1):
            arguments = Arguments(free_port(), model, workers, threads, limit_s, max_in_flight)
            process, server, began = _start(name, arguments, Path(folder), log)
            try:
                try:
                    _wait_until_ready(process, server, photo, log)
                except RuntimeError:
                    if tries_left and process.poll() is not None:
                        continue
                    raise
                start_s = time.monotonic() - began
                if name in OURS:
                    wait_for_dashboard(log)
                yield replace(server, start_s=start_s)
                return
            finally:
                stop(process, patience_s=0)  # an orderly shutdown of Ray takes a minute


def _start(
    name: str, arguments: Arguments, folder: Path, log: Path
) -> tuple[subprocess.Popen[bytes], RunningServer, float]:
    """Start a server. Returns its process, its address, and the time."""
    if name in OURS:
        command, environment = ours.settings(folder, arguments, journal=OURS[name])
        path = "/v1/classify"
    else:
        peer = PEERS[name]
        command = peer.command.format(
            bin=prepare_interpreter(name, peer).parent, port=arguments.port, workers=arguments.workers
        ).split()
        environment, path = environment_in(folder) | arguments.to_environment(), peer.path
    environment["OMP_NUM_THREADS"] = str(arguments.threads)
    began = time.monotonic()
    with log.open("wb") as output, pinned(arguments.workload, SERVER):
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, stdout=output, stderr=output, start_new_session=True
        )
    return process, RunningServer(name, f"http://127.0.0.1:{arguments.port}{path}", process.pid), began


def prepare_interpreter(name: str, peer: Peer) -> Path:
    """Return the interpreter of a server's environment, which is created if it is missing.

    A server that needs no further packages uses this interpreter. Raises RuntimeError if the environment cannot be
    created.
    """
    if not peer.packages:
        return Path(sys.executable)
    folder = ROOT / "build/peers" / f"venv-{_slug(name)}"
    found = folder / "bin/python"
    ready, fingerprint = folder / ".ready", f"{_PROJECT} {peer}\n{(ROOT / 'constraints.txt').read_text()}"
    if not ready.is_file() or ready.read_text() != fingerprint:
        uv = str(Path(sys.executable).with_name("uv"))
        base = peer.python if Path(peer.python).exists() else sys.executable
        _run([uv, "venv", "--quiet", "--clear", "--python", base, str(folder)])
        lock = (ROOT / "constraints.txt").read_text().splitlines()
        locked = [line.removesuffix("\\").strip() for line in lock if "==" in line]  # without hashes
        constraints, overrides = folder / "constraints.txt", folder / "overrides.txt"
        constraints.write_text("\n".join(line for line in locked if not line.startswith(peer.unpinned)))
        forced = {each.partition("==")[0] for each in peer.forced}
        overrides.write_text("\n".join(line for line in locked if line.partition("==")[0] in forced))
        install = [uv, "pip", "install", "--quiet", "--python", str(found)]
        limits = ["--constraints", str(constraints), "--overrides", str(overrides)]
        _run([*install, *limits, "--editable", _PROJECT, *peer.packages])
        if peer.forced:
            _run([*install, "--no-deps", *peer.forced])
        ready.write_text(fingerprint)
    return found


def _run(command: list[str]) -> None:
    if exit_code := subprocess.run(command, cwd=ROOT).returncode:
        raise RuntimeError(f"`{shlex.join(command)}` ended with exit code {exit_code}")


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def _wait_until_ready(process: subprocess.Popen[bytes], server: RunningServer, photo: bytes, log: Path) -> None:
    body, headers = server.request(photo)
    give_up_at, failures = time.monotonic() + _START_S, 0
    while time.monotonic() < give_up_at and process.poll() is None and failures < _MAX_FAILURES:
        with suppress(httpx.TransportError):
            status_code = httpx.post(server.url, content=body, headers=headers, timeout=60).status_code
            if status_code == 200:
                return
            failures += status_code == 500
        time.sleep(0.2)
    end = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
    raise RuntimeError(f"The server does not answer. The end of {log}:\n{end}")
