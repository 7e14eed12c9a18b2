"""`python -m benchmarks.overhead`: what part of a bare loop this server reaches through HTTP, and where the rest goes.

1.0 is the bare loop of `benchmarks.peers`: the same decoding and model in one process, with the threads that suit it
best, before and after the server runs. The server has its flags for throughput and never rests. What its processes take
of the cores is told by what they are for, an answer; what its ingress does with its part by sampling its stacks with
py-spy, in a run of its own, since sampling costs something. Times of a verdict are the server's own.
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
from benchmarks.peers.bare import apart, by_threads
from benchmarks.peers.load import Load
from benchmarks.peers.model import BUNDLED, LARGE, SMALL, WORKS
from benchmarks.peers.pictures import SIZES, pictures
from benchmarks.peers.servers import Running, running
from benchmarks.server import ROOT, end_in_order
from roadwork_serve.atomic_write import write_json

OUT = ROOT / "benchmarks/results/overhead.json"
DRAFT = ROOT / "build/overhead.json"  # what is known so far; a run that is broken off leaves no half a result
SERVER = "roadwork-serve, fast"
# What a process is for, by its title: the first that matches.
ROLES = {
    "model": r"ServeReplica:\w+:(?!Ingress|Journal)",
    "decoding": r"roadwork_serve\.media\.decode_worker",
    "ingress": r"ServeReplica:\w+:Ingress",
    "HAProxy": r"haproxy|HAProxyManager|ProxyActor",
    "Ray, Serve's controller": r"",
}
# What a stack is at, by the innermost of its frames that one of these files holds.
DOINGS = {
    "to the decoding processes and back": r"roadwork_serve/media/",
    "hop to the stages: handle, serialisation, gRPC": (
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
_RATE = 200  # stacks a second, of which those that wait do not count


@dataclass(frozen=True, slots=True)
class Times:
    """Means over the answers, milliseconds. answer: the client's; the others are what the verdict says."""

    answer: float
    queue: float
    batch: float
    compute: float
    hop: float
    batch_size: float


@dataclass(frozen=True, slots=True)
class Row:
    """A model. share: of the bare loop. cpu_ms: of an answer, by what the processes are for; of the client last.

    bare_cpu_ms: of the loop, an image; decoding_ms: of it. rest_ms: of a core in a second in which nothing is asked.
    ingress: shares of its stacks; stacks: so many were seen.
    """

    model: str
    size: str
    bare: list[float]
    bare_cpu_ms: float
    decoding_ms: float
    per_s: list[float]
    share: float
    cpu_ms: dict[str, float]
    idle_ms: float
    rest_ms: dict[str, float]
    times: Times
    ingress: dict[str, float]
    stacks: int


def measured(model: str, size: str, seconds: float, repeats: int) -> Row:
    """One model, from the bare loop to the bare loop."""
    work, cores = WORKS[model], len(os.sched_getaffinity(0))
    found = by_threads(model, seconds)
    best = max(found, key=lambda count: found[count])
    with apart(model, best) as loop:
        before = loop.run(size, seconds)
        with running(SERVER, model, cores, pictures(size)[0]) as server:
            load = server.load(model, size)
            clients = work.clients(cores, before.per_s)
            time.sleep(_WARM_S)
            rest_ms = at_rest(server, seconds)
            asyncio.run(load.saturated(clients, _WARM_S, 1, 0.0))
            taken, own_s, began = by_role(server), time.process_time(), time.monotonic()
            rates = asyncio.run(load.saturated(clients, seconds, repeats, 1.0)).repeats
            took_s = time.monotonic() - began
            answers = max(1.0, statistics.fmean(rates) * took_s)
            spent = {role: 1000 * (now - taken[role]) / answers for role, now in by_role(server).items()}
            spent["client"] = 1000 * (time.process_time() - own_s) / answers
            times = asyncio.run(verdicts(server, size, clients, seconds))
            seen = sampled(server, load, clients, 3 * seconds)
        after = loop.run(size, seconds)
    bare = statistics.fmean((before.per_s, after.per_s))
    rate = statistics.median(rates)
    return Row(
        model, size, [round(pace.per_s, 2) for pace in (before, after)],
        round(statistics.fmean((before.cpu_ms, after.cpu_ms)), 1),
        round(statistics.fmean(1000 * pace.decoding / pace.per_s for pace in (before, after)), 1),
        rates, round(rate / bare, 3), {role: round(each, 2) for role, each in spent.items()},
        round(1000 * cores * took_s / answers - sum(spent.values()), 2), rest_ms, times, shares(seen), seen.total(),
    )  # fmt: skip


def by_role(server: Running) -> dict[str, float]:
    """Processor seconds so far."""
    taken = dict.fromkeys(ROLES, 0.0)
    for process in server.processes():
        taken[next(role for role, title in ROLES.items() if re.search(title, process.title))] += process.cpu_s
    return taken


def at_rest(server: Running, seconds: float) -> dict[str, float]:
    """Return the core time used while idle, in milliseconds per second."""
    taken, began = by_role(server), time.monotonic()
    time.sleep(seconds)
    took_s = time.monotonic() - began
    return {role: round(1000 * (now - taken[role]) / took_s, 1) for role, now in by_role(server).items()}


async def verdicts(server: Running, size: str, clients: int, seconds: float) -> Times:
    """Return the times in verdicts at saturation."""
    told: list[tuple[float, Mapping[str, Any]]] = []
    bodies = itertools.cycle(pictures(size))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(end: float) -> None:
            while time.monotonic() < end:
                began = time.monotonic()
                headers = {"Content-Type": "image/jpeg"}
                async with session.post(server.url, data=next(bodies), headers=headers) as reply:
                    answer = await reply.read()
                    if reply.status == 200:
                        told.append((1000 * (time.monotonic() - began), json.loads(answer)["stages"][0]))
                    else:
                        await asyncio.sleep(0.1)

        end = time.monotonic() + seconds
        await asyncio.gather(*(ask(end) for _ in range(clients)))
    if not told:
        raise RuntimeError("no verdict came")
    parts = ("queue_ms", "preprocess_ms", "compute_ms", "rpc_ms", "batch_size")
    means = [statistics.fmean(stage[part] for _, stage in told) for part in parts]
    return Times(*(round(each, 1) for each in (statistics.fmean(ms for ms, _ in told), *means)))


def sampled(server: Running, load: Load, clients: int, seconds: float) -> Counter[str]:
    """Return stack samples of the ingress by activity; empty if py-spy may not read processes."""
    ingress = next(each for each in server.processes() if re.search(ROLES["ingress"], each.title))
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--nonblocking", "--format", "raw"]
        for option, value in (("rate", _RATE), ("duration", max(2, round(seconds))), ("output", file.name)):
            spy += [f"--{option}", str(value)]
        with subprocess.Popen(
            [*spy, "--pid", str(ingress.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as looking:
            asyncio.run(load.saturated(clients, seconds + 1, 1, 0.0))
            looking.wait(60)
        return doings(Path(file.name).read_text().splitlines())


def doings(lines: Iterable[str]) -> Counter[str]:
    """Of stacks as py-spy writes them, frames from the outermost to the innermost, and how often each was seen."""
    seen = Counter[str]()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        seen[_doing(stack.split(";"))] += int(count)
    return seen


def shares(seen: Counter[str]) -> dict[str, float]:
    """Of all stacks."""
    return {doing: round(count / seen.total(), 3) for doing, count in seen.most_common()}


def _doing(stack: list[str]) -> str:
    for frame in reversed(stack):
        for doing, files in DOINGS.items():
            if re.search(files, frame.rpartition("(")[2]):
                return doing
    return "else"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=(BUNDLED, SMALL, LARGE), default=[BUNDLED, SMALL, LARGE])
    parser.add_argument("--size", choices=SIZES, default="50 kB")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a measurement; four times that of the largest")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    end_in_order()
    environment = Environment.here(shlex.join(["python", "-m", "benchmarks.overhead", *sys.argv[1:]]))
    rows: list[Row] = []
    for model in args.models:
        rows.append(measured(model, args.size, args.seconds * (4 if model == LARGE else 1), args.repeats))
        Console().print(table(rows[-1]))
        write_json(DRAFT, {"environment": asdict(environment), "rows": [asdict(row) for row in rows]})
    DRAFT.replace(args.out)


def table(row: Row) -> Table:
    """For people."""
    view = Table("where", "ms of a core, an answer", title=f"{row.model}: {row.share} of the bare loop")
    view.add_row("the bare loop", f"{row.bare_cpu_ms} ({row.decoding_ms} decoding)")
    for role, took in (row.cpu_ms | {"idle": row.idle_ms}).items():
        view.add_row(role, f"{took}")
    view.add_row("at rest, a second", f"{sum(row.rest_ms.values()):.0f}")
    for doing, share in row.ingress.items():
        view.add_row(f"ingress: {doing}", f"{share * row.cpu_ms['ingress']:.2f}")
    return view


if __name__ == "__main__":
    main()
