"""Throughput of one replica of the ingress, and how it grows with more: `python -m benchmarks.ingress`.

Stage 1 is a stand-in that answers at once, photos have the size of its thumbnails, and closed-loop clients saturate the
server. One replica is measured without a limit. Two cores cannot show what more replicas add on a machine with more
cores. So they are also measured with a share of the time each: twenty times a second every replica is stopped and
continued. Only the ingress is limited that way.
"""

import argparse
import asyncio
import io
import os
import shlex
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from benchmarks.environment import Environment
from benchmarks.fake_models import BUILDER, overrides
from benchmarks.peers.load import Load
from benchmarks.peers.servers import OURS, Process, RunningServer, spent_s
from benchmarks.server import ROOT, end_in_order, started
from benchmarks.tables import RESULTS
from roadwork_serve.atomic_write import write_json
from roadwork_serve.testbed.scene_dataset import draw_scene

OUT = RESULTS / "ingress.json"
REPLICAS, SHARE = (1, 2, 4), 0.15  # of the time
PERIOD_S = 0.05
_SIDE, _PICTURES, _SEED = 224, 16, 9_502_000_000
_CLIENTS, _LIMIT_S, _WARM_S = 16, 30.0, 5.0  # clients of a replica
_INGRESS = "ServeReplica:roadwork:Ingress"


@dataclass(frozen=True, slots=True)
class Row:
    """A number of replicas."""

    replicas: int
    #: Share of the time in which each may run; None without a limit.
    share: float | None
    #: Answers per second, by repeat.
    per_s: list[float]
    #: Requests without an answer.
    refused: int
    #: Processor time of the replicas of the ingress per answer, in milliseconds of a core.
    ingress_ms: float
    #: Cores that the replicas of the ingress took together.
    ingress_cores: float


def small_photos() -> list[bytes]:
    """Return rendered scenes in the size of thumbnails, as JPEGs, whose decoding takes little."""
    photos = []
    for index in range(_PICTURES):
        scene = Image.open(io.BytesIO(draw_scene(_SEED + index, "photo").data)).convert("RGB")
        out = io.BytesIO()
        scene.resize((_SIDE, _SIDE)).save(out, "JPEG", quality=85)
        photos.append(out.getvalue())
    return photos


@contextmanager
def limited(pids: Sequence[int], share: float | None, period_s: float = PERIOD_S) -> Iterator[None]:
    """Let each process run for this share of the time: it is stopped for the rest of every period, each in its turn.

    Without a share they are not limited.
    """
    if share is None:
        yield
        return
    done = threading.Event()

    def pace(pid: int, wait_s: float) -> None:
        done.wait(wait_s)
        with suppress(ProcessLookupError):
            while not done.is_set():
                os.kill(pid, signal.SIGCONT)
                done.wait(share * period_s)
                os.kill(pid, signal.SIGSTOP)
                done.wait((1 - share) * period_s)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    threads = [
        threading.Thread(target=pace, args=(pid, at * period_s / len(pids)), daemon=True) for at, pid in enumerate(pids)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def measure(replicas: int, share: float | None, seconds: float, repeats: int) -> Row:
    """Measure a server with this many replicas of the ingress, each with a share of the time, or without a limit."""
    settings = overrides({}, replicas, sure=1.0)
    settings["ingress"] |= {"default_deadline_ms": int(1000 * _LIMIT_S)}
    args = {"profile": "mini", "overrides": settings}
    with started(ROOT / "build/ingress.log", args, builder=BUILDER, settled=True) as found:
        server = RunningServer(next(iter(OURS)), f"{found.url}/v1/classify", found.pid)
        requests = [server.request(photo) for photo in small_photos()]
        load, clients = Load(server.url, requests, _LIMIT_S, server.is_complete), _CLIENTS * replicas
        asyncio.run(load.closed_loop(clients, _WARM_S, 1, 0.0))
        pids = [process.pid for process in server.processes() if _INGRESS in process.title]
        if len(pids) != replicas:
            raise RuntimeError(f"{len(pids)} replicas of the ingress run, not {replicas}")
        with limited(pids, share):
            before, began = _replicas(server, pids), time.monotonic()
            saturated = asyncio.run(load.closed_loop(clients, seconds, repeats, 1.0))
            took_s, cpu_s = time.monotonic() - began, sum(spent_s(before, _replicas(server, pids)).values())
    answers = statistics.fmean(saturated.throughputs) * took_s
    per_s = [round(each, 1) for each in saturated.throughputs]
    return Row(replicas, share, per_s, saturated.refused, round(1000 * cpu_s / answers, 2), round(cpu_s / took_s, 2))


def _replicas(server: RunningServer, pids: Sequence[int]) -> dict[int, Process]:
    return {pid: process for pid, process in server.by_pid().items() if pid in pids}


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingress", description=__doc__)
    parser.add_argument("--replicas", type=int, nargs="+", default=list(REPLICAS), help="with a share of the time each")
    parser.add_argument("--share", type=float, default=SHARE, help="of the time, for each of them, between 0 and 1")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    if not 0 < given.share < 1:
        parser.error("--share is between 0 and 1")
    end_in_order()
    rows = []
    for replicas, share in [(1, None), *((count, given.share) for count in given.replicas)]:
        rows.append(measure(replicas, share, given.seconds, given.repeats))
        print(rows[-1], flush=True)
    command = shlex.join(["python", "-m", "benchmarks.ingress", *sys.argv[1:]])
    write_json(given.out, {"environment": asdict(Environment.here(command)), "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
