"""`python -m benchmarks.peers`: this server and others over the same model, photos and decoding, on this machine.

For each backbone and size of photo, each server in turn: the time until it answers; answers a second to clients that
never let it rest; then Poisson arrivals at shares of that, and at one and a half times of it. Latency counts from when
a request was due. The client shares the cores with the server, as it does for all of them. 1.0 is a bare loop over the
same decoding and model in one process with as many threads as suit it best.
"""

import argparse
import asyncio
import json
import os
import shlex
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.environment import Environment
from benchmarks.peers.load import Load, Point
from benchmarks.peers.model import BATCH, BUNDLED, LARGE, SMALL, weights
from benchmarks.peers.pictures import SIZES, pictures
from benchmarks.peers.servers import OURS, PEERS, running
from benchmarks.server import ROOT
from roadwork_serve.learn.evaluation import write_json

OUT = ROOT / "benchmarks/results/peers.json"
SHARES, OVERLOAD = (0.5, 0.7, 0.85, 0.95), 1.5
LIMIT_S = {BUNDLED: 0.5, SMALL: 0.5, LARGE: 5.0}  # the largest takes a second a photo on two cores
CLIENTS = 2 * BATCH
_WARM_S = 3.0


@dataclass(frozen=True, slots=True)
class Bare:
    """By number of threads: images a second, and the share of the time that decoding takes."""

    threads: dict[int, dict[str, float]]

    @property
    def per_s(self) -> float:
        return max(each["per_s"] for each in self.threads.values())


@dataclass(slots=True)
class Row:
    """A server over a backbone and photos of a size. repeats: of saturation, answers a second.

    of_bare: their median over the bare loop's. kept: the highest rate offered at which 99 % were in time, None where
    there was none. goodput: answers in time a second under overload, over the saturated rate.
    """

    server: str
    model: str
    size: str
    start_s: float = 0.0
    repeats: list[float] = field(default_factory=list)
    of_bare: float = 0.0
    cpu_ms: float = 0.0
    memory_mib: float = 0.0
    points: list[Point] = field(default_factory=list)
    overload: Point | None = None
    kept: float | None = None
    goodput: float = 0.0


def bare(model: str, size: str, seconds: float) -> Bare:
    """The loop, in processes of their own."""
    found: dict[int, dict[str, float]] = {}
    for threads in range(1, len(os.sched_getaffinity(0)) + 1):
        command = [sys.executable, "-m", "benchmarks.peers.bare", model, size, str(threads), str(seconds)]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
        found[threads] = json.loads(done.stdout.splitlines()[-1])
    return Bare(found)


def measured(name: str, model: str, size: str, limit: Bare, args: argparse.Namespace) -> Row:
    """One server, from its start to its end."""
    row, bodies = Row(name, model, size), pictures(size, BATCH)
    threads = max(limit.threads, key=lambda each: limit.threads[each]["per_s"])
    with running(name, model, threads, bodies[0]) as server:
        load = Load(server.url, bodies, LIMIT_S[model])
        asyncio.run(load.saturated(CLIENTS, _WARM_S))
        cpu_s = server.cpu_s()
        row.repeats = [asyncio.run(load.saturated(CLIENTS, args.seconds)) for _ in range(args.repeats)]
        rate = statistics.median(row.repeats)
        answered = sum(row.repeats) * args.seconds
        row.start_s, row.memory_mib = round(server.start_s, 1), round(server.memory_mib())
        row.cpu_ms = round(1000 * (server.cpu_s() - cpu_s) / answered, 1) if answered else 0.0
        row.of_bare = round(rate / limit.per_s, 3)
        row.points = [asyncio.run(load.offered(share * rate, args.seconds, seed=1)) for share in SHARES]
        kept = [point.offered for point in row.points if point.p99_ms <= 1000 * LIMIT_S[model] and not point.failed]
        row.kept = max(kept, default=None)
        row.overload = asyncio.run(load.offered(OVERLOAD * rate, 2 * args.seconds, seed=2))
        row.goodput = round(row.overload.in_time / rate, 3)
    return row


def table(rows: list[Row]) -> Table:
    """For people."""
    view = Table(title="One backbone behind several servers")
    for heading in (
        "backbone", "photo", "server", "of the bare loop", "a second", "kept, p99", "goodput at 1.5x", "CPU ms", "MiB",
        "ready s",
    ):  # fmt: skip
        view.add_column(heading)
    for row in rows:
        view.add_row(
            row.model, row.size, row.server, f"{row.of_bare:.2f}", f"{statistics.median(row.repeats):.1f}",
            "none" if row.kept is None else f"{row.kept:.1f}", f"{row.goodput:.2f}", f"{row.cpu_ms:.0f}",
            f"{row.memory_mib:.0f}", f"{row.start_s:.0f}",
        )  # fmt: skip
    return view


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=LIMIT_S, default=list(LIMIT_S))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--servers", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS])
    parser.add_argument("--seconds", type=float, default=12.0, help="of each measurement; twice that of overload")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    environment = Environment.here(shlex.join(["python", "-m", "benchmarks.peers", *sys.argv[1:]]))
    rows: list[Row] = []
    limits: dict[str, dict[str, object]] = {}
    for model in args.models:
        weights(model)
        for size in args.sizes:
            limit = bare(model, size, args.seconds)
            limits[f"{model}, {size}"] = asdict(limit)
            print(f"{model}, {size}: the bare loop has {limit.per_s:.1f} a second", flush=True)
            for name in args.servers:
                rows.append(measured(name, model, size, limit, args))
                print(f"  {name}: {rows[-1].of_bare} of it, goodput {rows[-1].goodput}", flush=True)
    Console(width=150).print(table(rows))
    told = {"environment": asdict(environment), "limit_s": LIMIT_S, "bare": limits, "rows": [asdict(r) for r in rows]}
    write_json(args.out, told)


if __name__ == "__main__":
    main()
