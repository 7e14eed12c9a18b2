"""Compare throughput over HTTP with a bare loop, and break down the overhead: `python -m benchmarks.overhead`.

1.0 is the bare loop of `benchmarks.peers`: the same decoding and model in one process, with the number of threads that
is fastest for it, before and after the server runs. The server runs as by default, at saturation.
The core time of its processes is reported per verdict, by role. That of the ingress is broken down by sampling its
stacks with py-spy, in a separate run because sampling has a cost. Latencies inside a verdict are the server's own.
"""

import argparse
import asyncio
import itertools
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from benchmarks.environment import Environment
from benchmarks.peers.bare import loop_process, throughput_by_threads
from benchmarks.peers.load import Load
from benchmarks.peers.pictures import SIZES, pictures
from benchmarks.peers.servers import RunningServer, running
from benchmarks.peers.workloads import BUNDLED, LARGE, SMALL, WORKLOADS
from benchmarks.server import ROOT, end_in_order
from roadwork_serve.atomic_write import write_json

OUT = ROOT / "benchmarks/results/overhead.json"
DRAFT = ROOT / "build/overhead.json"  # results so far; an interrupted run does not change the result file
SERVER = "roadwork-serve"
# Role of a process: the first pattern that matches its title.
ROLES = {
    "model": r"ServeReplica:\w+:(?!Ingress|Journal)",
    "decoding": r"roadwork_serve\.media\.decode_worker",
    "ingress": r"ServeReplica:\w+:Ingress",
    "HAProxy": r"haproxy|HAProxyManager|ProxyActor",
    "Ray, Serve's controller": r"",
}
# Activity of a stack: that of the innermost frame whose file matches.
ACTIVITIES = {
    "IPC with the decoding processes": r"roadwork_serve/media/",
    "RPC to the stages: handle, serialization, gRPC": (
        r"deployments/(stage|cascade)_client|serve/handle|serve/_private/(router|request_router|replica_result|serialization|tracing)"
        r"|cloudpickle|grpc/"
    ),
    "metrics, journal, log": (
        r"ray/util/metrics|serve/metrics|deployments/(metrics|journal_outbox)|roadwork_serve/api/(stats|demand_report|observers)|logging/|/journal/"
        r"|profiles/flops"
    ),
    "cascade": r"roadwork_serve/cascade|deployments/(ingress|replica_group)"
    r"|roadwork_serve/(api/(media_decoder|admission)|schema|validation)",
    "HTTP": (
        r"uvicorn|starlette|fastapi|pydantic|deployments/|roadwork_serve/api/|serve/_private/(http_util|replica|proxy)"
    ),
    "event loop, Ray's core": r"asyncio/|threading|ray/|selectors|concurrent/",
}
_WARM_S = 6.0
_RATE = 200  # samples per second; idle stacks do not count


@dataclass(frozen=True, slots=True)
class Latency:
    """Mean latencies of the verdicts."""

    #: Measured by the client; the others are from the verdict.
    client_ms: float
    #: Wait for a replica of the stage.
    queue_ms: float
    #: Preprocessing in the replica.
    preprocess_ms: float
    compute_ms: float
    #: Rest of the RPC.
    rpc_ms: float
    batch_size: float


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of a model."""

    model: str
    size: str
    #: Images per second of the bare loop, before and after.
    bare: list[float]
    #: Processor time of the bare loop per image.
    bare_cpu_ms: float
    #: Part of it for decoding.
    decoding_ms: float
    #: Verdicts per second, by repeat.
    per_s: list[float]
    #: Relative to the bare loop.
    relative_throughput: float
    #: Processor time per verdict by role; the client last.
    cpu_ms: dict[str, float]
    #: Core time per verdict that no process used.
    unused_ms: float
    #: Core time per second without load, by role.
    no_load_ms: dict[str, float]
    latency: Latency
    #: Share of the stack samples by activity.
    ingress: dict[str, float]
    #: Number of stack samples.
    stack_samples: int


def measure(model: str, size: str, seconds: float, repeats: int) -> Row:
    """Measure one model, between two runs of the bare loop."""
    workload, cores = WORKLOADS[model], len(os.sched_getaffinity(0))
    throughputs = throughput_by_threads(model, seconds)
    best = max(throughputs, key=lambda count: throughputs[count])
    with loop_process(model, best) as loop:
        before = loop.run(size, seconds)
        with running(SERVER, model, cores, pictures(size)[0]) as server:
            load = server.load(model, size)
            clients = workload.clients(cores, before.per_s)
            time.sleep(_WARM_S)
            no_load_ms = without_load(server, seconds)
            asyncio.run(load.closed_loop(clients, _WARM_S, 1, 0.0))
            cpu_before, own_s, began = by_role(server), time.process_time(), time.monotonic()
            rates = asyncio.run(load.closed_loop(clients, seconds, repeats, 1.0)).throughputs
            took_s = time.monotonic() - began
            answers = max(1.0, statistics.fmean(rates) * took_s)
            cpu_ms = {role: 1000 * (now - cpu_before[role]) / answers for role, now in by_role(server).items()}
            cpu_ms["client"] = 1000 * (time.process_time() - own_s) / answers
            latency = asyncio.run(measure_latency(server, size, clients, seconds))
            samples = sample_stacks(server, load, clients, 3 * seconds)
        after = loop.run(size, seconds)
    bare = statistics.fmean((before.per_s, after.per_s))
    rate = statistics.median(rates)
    return Row(
        model, size, [round(result.per_s, 2) for result in (before, after)],
        round(statistics.fmean((before.cpu_ms, after.cpu_ms)), 1),
        round(statistics.fmean(1000 * result.decoding_share / result.per_s for result in (before, after)), 1),
        rates, round(rate / bare, 3), {role: round(each, 2) for role, each in cpu_ms.items()},
        round(1000 * cores * took_s / answers - sum(cpu_ms.values()), 2), no_load_ms, latency, to_shares(samples),
        samples.total(),
    )  # fmt: skip


def by_role(server: RunningServer) -> dict[str, float]:
    """Return the processor time so far in seconds, by role."""
    taken_s = dict.fromkeys(ROLES, 0.0)
    for process in server.processes():
        taken_s[next(role for role, title in ROLES.items() if re.search(title, process.title))] += process.cpu_s
    return taken_s


def without_load(server: RunningServer, seconds: float) -> dict[str, float]:
    """Return the core time used without load, in milliseconds per second, by role."""
    before, began = by_role(server), time.monotonic()
    time.sleep(seconds)
    took_s = time.monotonic() - began
    return {role: round(1000 * (now - before[role]) / took_s, 1) for role, now in by_role(server).items()}


async def measure_latency(server: RunningServer, size: str, clients: int, seconds: float) -> Latency:
    """Return the latencies of verdicts at saturation."""
    verdicts: list[tuple[float, Mapping[str, Any]]] = []
    bodies = itertools.cycle(pictures(size))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def run_client(end: float) -> None:
            while time.monotonic() < end:
                began = time.monotonic()
                headers = {"Content-Type": "image/jpeg"}
                async with session.post(server.url, data=next(bodies), headers=headers) as reply:
                    body = await reply.read()
                    if reply.status == 200:
                        verdicts.append((1000 * (time.monotonic() - began), json.loads(body)["stages"][0]))
                    else:
                        await asyncio.sleep(0.1)

        end = time.monotonic() + seconds
        await asyncio.gather(*(run_client(end) for _ in range(clients)))
    if not verdicts:
        raise RuntimeError("the server returned no verdict")
    parts = ("queue_ms", "preprocess_ms", "compute_ms", "rpc_ms", "batch_size")
    means = [statistics.fmean(stage[part] for _, stage in verdicts) for part in parts]
    return Latency(*(round(each, 1) for each in (statistics.fmean(ms for ms, _ in verdicts), *means)))


def sample_stacks(server: RunningServer, load: Load, clients: int, seconds: float) -> Counter[str]:
    """Return stack samples of the ingress by activity; empty if py-spy may not read processes."""
    ingress = next(each for each in server.processes() if re.search(ROLES["ingress"], each.title))
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--nonblocking", "--format", "raw"]
        for option, value in (("rate", _RATE), ("duration", max(2, round(seconds))), ("output", file.name)):
            spy += [f"--{option}", str(value)]
        with subprocess.Popen(
            [*spy, "--pid", str(ingress.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as profiler:
            asyncio.run(load.closed_loop(clients, seconds + 1, 1, 0.0))
            profiler.wait(60)
        return count_activities(Path(file.name).read_text().splitlines())


def count_activities(lines: Iterable[str]) -> Counter[str]:
    """Count activities in the output of py-spy: lines with frames, outermost first, and a number of samples."""
    samples = Counter[str]()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        samples[_activity(stack.split(";"))] += int(count)
    return samples


def to_shares(samples: Counter[str]) -> dict[str, float]:
    """Return the share of each activity."""
    return {activity: round(count / samples.total(), 3) for activity, count in samples.most_common()}


def _activity(stack: list[str]) -> str:
    for frame in reversed(stack):
        for activity, files in ACTIVITIES.items():
            if re.search(files, frame.rpartition("(")[2]):
                return activity
    return "other"


def main() -> None:
    """Measure, print the results, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models",
        nargs="+",
        choices=(BUNDLED, SMALL, LARGE),
        default=[BUNDLED, SMALL, LARGE],
        help="models to measure",
    )
    parser.add_argument("--size", choices=SIZES, default="50 kB", help="size of the photos")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="duration of a measurement; four times that for the largest model"
    )
    parser.add_argument("--repeats", type=int, default=3, help="measurements at saturation")
    parser.add_argument("--out", type=Path, default=OUT, help="result file")
    args = parser.parse_args()
    end_in_order()
    environment = Environment.here(shlex.join(["python", "-m", "benchmarks.overhead", *sys.argv[1:]]))
    rows: list[Row] = []
    for model in args.models:
        rows.append(measure(model, args.size, args.seconds * (4 if model == LARGE else 1), args.repeats))
        Console().print(table(rows[-1]))
        write_json(DRAFT, {"environment": asdict(environment), "rows": [asdict(row) for row in rows]})
    DRAFT.replace(args.out)


def table(row: Row) -> Table:
    """Return a table of the figures of a model."""
    view = Table("component", "core ms per verdict", title=f"{row.model}: {row.relative_throughput} of the bare loop")
    view.add_row("bare loop", f"{row.bare_cpu_ms}, of which decoding {row.decoding_ms}")
    for role, took in (row.cpu_ms | {"unused": row.unused_ms}).items():
        view.add_row(role, f"{took}")
    view.add_row("without load, per second", f"{sum(row.no_load_ms.values()):.0f}")
    for activity, share in row.ingress.items():
        view.add_row(f"ingress: {activity}", f"{share * row.cpu_ms['ingress']:.2f}")
    return view


if __name__ == "__main__":
    main()
