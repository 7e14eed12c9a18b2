"""`python -m benchmarks.peers`: this server and others over the same models, photos and decoding, on this machine.

1.0 is a bare loop over the same decoding and model in one process, with as many threads as suit it best. It runs before
and after each server, while nothing else does. In between the server is started for each model with time and room
enough for whatever comes, and gets photos of each size from clients that never let it rest. Then it is started anew
with the limit as its deadline and what it answered a second as the measure of its queues, and gets Poisson arrivals of
photos of the first size at shares of that, and at one and a half times it. Latency counts from when a request was due.
The client shares the cores with the server, as it does for all of them. Each server has as many workers as there are
cores, each with one thread. A server that does not run with a model is told of; the others go on.
The result has a run for each model. What it had of models that are not measured this time stays.
"""

import argparse
import asyncio
import itertools
import shlex
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.environment import Environment
from benchmarks.peers.bare import Apart, apart, by_threads
from benchmarks.peers.load import Point, Saturated
from benchmarks.peers.model import BUNDLED, CASCADE, LARGE, SMALL, WORKS
from benchmarks.peers.pictures import SIZES, pictures
from benchmarks.peers.plot import drawn
from benchmarks.peers.results import Curve, Row, Run, joined
from benchmarks.peers.servers import OURS, PEERS, Running, running
from benchmarks.server import ROOT, end_in_order
from roadwork_serve.atomic_write import write_json

OUT = ROOT / "benchmarks/results/peers.json"
DRAFT = ROOT / "build/peers/draft.json"  # of the model in work; one that is broken off leaves no half a result
SHARES, OVERLOAD = (0.5, 0.7, 0.85, 0.95), 1.5
PACES = {BUNDLED: 1.0, SMALL: 2.0, LARGE: 4.0, CASCADE: 2.0}  # measured so many times as long as is asked for
# The more a model takes, the less it matters how large a photo is.
SIZED = {BUNDLED: tuple(SIZES), SMALL: ("50 kB",), LARGE: ("50 kB",), CASCADE: ("50 kB",)}
_WARM_S = 5.0


def measured(name: str, model: str, workers: int, loop: Apart, args: argparse.Namespace) -> Iterator[Row | Curve]:
    """One server, from its start to its end, between two runs of the bare loop."""
    work, seconds = WORKS[model], args.seconds * PACES[model]
    sizes = args.sizes or SIZED[model]
    before = {size: loop.run(size, seconds) for size in sizes}
    taken: dict[str, _Taken] = {}
    curve: Curve | None = None
    with running(name, model, workers, pictures(sizes[0])[0]) as server:
        for size in sizes:
            taken[size] = _saturated(server, model, size, work.clients(workers, before[size].per_s), seconds, args)
    if model in args.curves:
        rate = statistics.median(taken[sizes[0]].load.repeats)
        with running(name, model, workers, pictures(sizes[0])[0], rate) as server:
            curve = _curve(server, model, sizes[0], rate, seconds, args.arrivals)
    for size in sizes:
        bare, told = [before[size], loop.run(size, seconds)], taken[size]
        of_bare = statistics.median(told.load.repeats) / statistics.fmean(pace.per_s for pace in bare)
        yield Row(
            name, model, size, round(server.start_s, 1), told.load.repeats, bare, round(of_bare, 3), told.cpu_ms,
            told.memory_mib, told.load.refused,
        )  # fmt: skip
    if curve is not None:
        yield curve


@dataclass(frozen=True, slots=True)
class _Taken:
    load: Saturated
    cpu_ms: float
    memory_mib: int


def _saturated(
    server: Running, model: str, size: str, clients: int, seconds: float, args: argparse.Namespace
) -> _Taken:
    load = server.load(model, size)
    asyncio.run(load.saturated(clients, _WARM_S, 1, 0.0))
    before_s, began = server.cpu_s(), time.monotonic()
    found = asyncio.run(load.saturated(clients, seconds, args.repeats, 1.0))
    if not statistics.median(found.repeats):  # one without an answer is a pause, and the least in the tables
        raise RuntimeError(f"it stopped answering: {found}")
    answered = statistics.fmean(found.repeats) * (time.monotonic() - began)
    spent_s = server.cpu_s() - before_s
    return _Taken(found, round(1000 * spent_s / answered, 1), round(server.memory_mib()))


def _curve(server: Running, model: str, size: str, rate: float, seconds: float, arrivals: int) -> Curve:
    load = server.load(model, size)
    asyncio.run(load.offered(SHARES[0] * rate, _WARM_S + WORKS[model].limit_s, seed=0))

    def point(share: float, arrivals: int) -> Point:
        long_s = max(seconds, WORKS[model].limit_s + arrivals / (share * rate))
        return asyncio.run(load.offered(share * rate, long_s, seed=1))

    points, overload = [point(share, arrivals) for share in SHARES], point(OVERLOAD, 2 * arrivals)
    kept = [point.offered for point in itertools.takewhile(lambda point: point.kept >= 0.99, points)]
    return Curve(
        server.name, model, size, rate, points, max(kept, default=None), overload, round(overload.in_time / rate, 3)
    )  # fmt: skip


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--curves", nargs="*", choices=WORKS, default=[BUNDLED, SMALL, CASCADE])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="of photos, in place of those that suit each model")
    parser.add_argument("--servers", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS])
    parser.add_argument("--seconds", type=float, default=1.5, help="of a measurement with the bundled model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arrivals", type=int, default=300, help="at each rate; twice as many when overloaded")
    parser.add_argument("--workers", type=int, help="of every server, in place of one a core")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    part = args.sizes or len(args.servers) < len(OURS | PEERS)
    if part and args.out == OUT:
        parser.error("some servers or sizes alone would replace what the result has of all: give another --out")
    end_in_order()
    environment = Environment.here(shlex.join(["python", "-m", "benchmarks.peers", *sys.argv[1:]]))
    workers = args.workers or environment.cores
    for model in args.models:
        pins = {name: [*PEERS[name].needs, *PEERS[name].last] for name in args.servers if name in PEERS}
        run = Run(model, asdict(environment), by_threads(model, args.seconds), pins=pins)
        with apart(model, max(run.threads, key=lambda count: run.threads[count])) as loop:
            for name in args.servers:
                try:
                    for found in measured(name, model, workers, loop, args):
                        (run.rows if isinstance(found, Row) else run.curves).append(found)
                        print(found.told(), flush=True)
                except RuntimeError as error:
                    run.failed.append({"server": name, "why": str(error).splitlines()[-1]})
                    print(f"{model}, {name}: {error}", flush=True)
                write_json(DRAFT, asdict(run))
        keep(args.out, run)


def keep(out: Path, run: Run) -> None:
    """Into a result and its picture, in place of what they had of the model."""
    runs = joined(out, run, list(WORKS))
    told = {
        "environment": run.environment,
        "works": {name: asdict(work) for name, work in WORKS.items()},
        "runs": [asdict(each) for each in runs],
    }
    write_json(out, told)
    drawn(
        out.with_suffix(".png"), [row for each in runs for row in each.rows], [c for each in runs for c in each.curves]
    )


if __name__ == "__main__":
    main()
