"""Compare this server with others over the same models, photos and decoding: `python -m benchmarks.peers`.

1.0 is a bare loop over the same decoding and model in one process, with the number of threads that is fastest for it.
It runs before and after each server, while nothing else runs. In between, the server is started for each model with
limits that reject nothing, and saturated by closed-loop clients with photos of each size. Then it is restarted with the
latency limit as its deadline and queues bounded by its measured throughput, and receives Poisson arrivals of photos of
the first size at shares of that throughput, and at 1.5 times it. Latency is counted from the time a request was due.

The client shares the cores with the server. Each server has as many workers as there are cores, each with one thread. A
server that fails with a model is reported; the others run. The result has a run for each model. Results of models that
are not measured this time are kept.
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
from benchmarks.peers.bare import LoopProcess, loop_process, throughput_by_threads
from benchmarks.peers.load import Point, Saturated
from benchmarks.peers.model import BUNDLED, CASCADE, LARGE, SMALL, WORKLOADS
from benchmarks.peers.pictures import SIZES, pictures
from benchmarks.peers.plot import plot
from benchmarks.peers.results import Curve, Row, Run, merge_runs
from benchmarks.peers.servers import OURS, PEERS, RunningServer, running
from benchmarks.server import ROOT, end_in_order
from roadwork_serve.atomic_write import write_json

OUT = ROOT / "benchmarks/results/peers.json"
DRAFT = ROOT / "build/peers/draft.json"  # of the current model; an interrupted run does not change the result file
SHARES, OVERLOAD = (0.5, 0.7, 0.85, 0.95), 1.5
PACES = {BUNDLED: 1.0, SMALL: 2.0, LARGE: 4.0, CASCADE: 2.0}  # factor on the duration of measurements
# With larger models the size of a photo matters less.
SIZED = {BUNDLED: tuple(SIZES), SMALL: ("50 kB",), LARGE: ("50 kB",), CASCADE: ("50 kB",)}
_WARM_S = 5.0


def measure_server(
    name: str, model: str, workers: int, loop: LoopProcess, args: argparse.Namespace
) -> Iterator[Row | Curve]:
    """Measure one server, from its start to its end, between two runs of the bare loop."""
    workload, seconds = WORKLOADS[model], args.seconds * PACES[model]
    sizes = args.sizes or SIZED[model]
    before = {size: loop.run(size, seconds) for size in sizes}
    saturation: dict[str, _Saturation] = {}
    curve: Curve | None = None
    with running(name, model, workers, pictures(sizes[0])[0]) as server:
        for size in sizes:
            saturation[size] = _saturated(
                server, model, size, workload.clients(workers, before[size].per_s), seconds, args
            )
    if model in args.curves:
        rate = statistics.median(saturation[sizes[0]].load.throughputs)
        with running(name, model, workers, pictures(sizes[0])[0], rate) as server:
            curve = _curve(server, model, sizes[0], rate, seconds, args.arrivals)
    for size in sizes:
        bare, result = [before[size], loop.run(size, seconds)], saturation[size]
        relative_throughput = statistics.median(result.load.throughputs) / statistics.fmean(each.per_s for each in bare)
        yield Row(
            name, model, size, round(server.start_s, 1), result.load.throughputs, bare, round(relative_throughput, 3),
            result.cpu_ms, result.memory_mib, result.load.refused,
        )  # fmt: skip
    if curve is not None:
        yield curve


@dataclass(frozen=True, slots=True)
class _Saturation:
    load: Saturated
    cpu_ms: float
    memory_mib: int


def _saturated(
    server: RunningServer, model: str, size: str, clients: int, seconds: float, args: argparse.Namespace
) -> _Saturation:
    load = server.load(model, size)
    asyncio.run(load.closed_loop(clients, _WARM_S, 1, 0.0))
    before_s, began = server.cpu_s(), time.monotonic()
    found = asyncio.run(load.closed_loop(clients, seconds, args.repeats, 1.0))
    if not statistics.median(found.throughputs):  # a single repeat without an answer is a pause
        raise RuntimeError(f"the server stopped answering: {found}")
    answers = statistics.fmean(found.throughputs) * (time.monotonic() - began)
    cpu_s = server.cpu_s() - before_s
    return _Saturation(found, round(1000 * cpu_s / answers, 1), round(server.memory_mib()))


def _curve(server: RunningServer, model: str, size: str, rate: float, seconds: float, arrivals: int) -> Curve:
    load = server.load(model, size)
    asyncio.run(load.open_loop(SHARES[0] * rate, _WARM_S + WORKLOADS[model].limit_s, seed=0))

    def point(share: float, arrivals: int) -> Point:
        long_s = max(seconds, WORKLOADS[model].limit_s + arrivals / (share * rate))
        return asyncio.run(load.open_loop(share * rate, long_s, seed=1))

    points, overload = [point(share, arrivals) for share in SHARES], point(OVERLOAD, 2 * arrivals)
    sustained = [
        point.offered_per_s for point in itertools.takewhile(lambda point: point.in_time_share >= 0.99, points)
    ]
    return Curve(
        server.name, model, size, rate, points, max(sustained, default=None), overload,
        round(overload.in_time_per_s / rate, 3),
    )  # fmt: skip


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="models to measure")
    parser.add_argument(
        "--curves",
        nargs="*",
        choices=WORKLOADS,
        default=[BUNDLED, SMALL, CASCADE],
        help="models to measure with Poisson arrivals, too",
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="sizes of photos; by default those for each model")
    parser.add_argument(
        "--servers", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS], help="servers to measure"
    )
    parser.add_argument("--seconds", type=float, default=1.5, help="duration of a measurement with the bundled model")
    parser.add_argument("--repeats", type=int, default=3, help="measurements at saturation")
    parser.add_argument("--arrivals", type=int, default=300, help="arrivals at each rate; twice as many at overload")
    parser.add_argument("--workers", type=int, help="workers of every server; by default one per core")
    parser.add_argument("--out", type=Path, default=OUT, help="result file")
    args = parser.parse_args()
    partial = args.sizes or len(args.servers) < len(OURS | PEERS)
    if partial and args.out == OUT:
        parser.error("a run of some servers or sizes would replace the full results: give another --out")
    end_in_order()
    environment = Environment.here(shlex.join(["python", "-m", "benchmarks.peers", *sys.argv[1:]]))
    workers = args.workers or environment.cores
    for model in args.models:
        pins = {name: [*PEERS[name].packages, *PEERS[name].forced] for name in args.servers if name in PEERS}
        run = Run(model, asdict(environment), throughput_by_threads(model, args.seconds), pins=pins)
        with loop_process(
            model, max(run.bare_per_s_by_threads, key=lambda count: run.bare_per_s_by_threads[count])
        ) as loop:
            for name in args.servers:
                try:
                    for row in measure_server(name, model, workers, loop, args):
                        (run.rows if isinstance(row, Row) else run.curves).append(row)
                        print(row.summary(), flush=True)
                except RuntimeError as error:
                    run.failed.append({"server": name, "error": str(error).splitlines()[-1]})
                    print(f"{model}, {name}: {error}", flush=True)
                write_json(DRAFT, asdict(run))
        save_run(args.out, run)


def save_run(out: Path, run: Run) -> None:
    """Write a run to the result file and its plot, replacing the earlier one of the model."""
    runs = merge_runs(out, run, list(WORKLOADS))
    result = {
        "environment": run.environment,
        "workloads": {name: asdict(workload) for name, workload in WORKLOADS.items()},
        "runs": [asdict(each) for each in runs],
    }
    write_json(out, result)
    plot(
        out.with_suffix(".png"), [row for each in runs for row in each.rows], [c for each in runs for c in each.curves]
    )


if __name__ == "__main__":
    main()
