"""Compare this server with others over the same models, photos and decoding: `python -m benchmarks.peers`.

1.0 is a bare loop over the same decoding and model in one process, with the number of threads that is fastest for it.
It runs before and after each server, while nothing else runs. In between, the server is started for each workload with
limits that reject nothing. Its processor time is measured without requests, and while closed-loop clients saturate it
with photos of each size. Then it is restarted with the latency limit as its deadline and queues bounded by its measured
throughput, and receives Poisson arrivals of photos of the first size at shares of that throughput, and at 1.5 times it.
Latency is counted from the time a request was due.

The bundled backbone is that of the profile cpu, in ONNX Runtime, and in 8 bits where the CPU has 8-bit dot products. In
the workloads "as shipped" the others and the bare loop run it in float32, the model that they are given, and this
server runs the graph in 8 bits that it ships. The larger backbones run in PyTorch everywhere.

The client shares the cores with the server. Each server has as many workers as there are cores, each with one thread.
With --one-core it has one worker and one core, as has the bare loop, and the client has another one. A server that
fails with a workload is reported; the others run. The result has a run for each workload. Those of workloads that are
not measured this time are kept.

On two cores this takes about forty minutes as by default, seven more with --one-core, which is a run of its own,
ten for vit-l, and twelve each for the curves of cascade and vit-s. First it installs what the other servers need.
"""

import argparse
import asyncio
import itertools
import os
import shlex
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.environment import Environment
from benchmarks.peers.bare import LoopProcess, loop_process, throughput_by_threads
from benchmarks.peers.cores import CLIENT, count_cores, pinned
from benchmarks.peers.load import Load, Point, Saturated
from benchmarks.peers.pictures import SIZES, pictures
from benchmarks.peers.plot import plot
from benchmarks.peers.results import Curve, Row, Run, merge_runs
from benchmarks.peers.servers import OURS, PEERS, RunningServer, running, spent_s
from benchmarks.peers.workloads import BUNDLED, CASCADE, LARGE, ON_ALL_CORES, SMALL, WORKLOADS, as_shipped, on_one_core
from benchmarks.server import ROOT, end_in_order
from roadwork_serve.atomic_write import write_json
from roadwork_serve.engines.cpu_features import has_int8_dot_products

OUT = ROOT / "benchmarks/results/peers.json"
DRAFT = ROOT / "build/peers/draft.json"  # of the current workload; an interrupted run does not change the result file
SHARES, OVERLOAD = (0.5, 0.7, 0.85, 0.95), 1.5
DEFAULT = (BUNDLED, as_shipped(BUNDLED), CASCADE, as_shipped(CASCADE), SMALL)
SIZED = {BUNDLED: ("50 kB", "300 kB")}  # the others are measured with photos of the first size
_WARM_S, _SETTLE_S = 5.0, 8.0  # before the load, and between the start and the measurement at rest


def measure_server(
    name: str, model: str, workers: int, loop: LoopProcess, args: argparse.Namespace
) -> Iterator[Row | Curve]:
    """Measure one server, from its start to its end, between two runs of the bare loop."""
    workload = WORKLOADS[model]
    seconds, sizes = args.seconds * workload.pace, args.sizes or SIZED.get(model, ("50 kB",))
    before = {size: loop.run(size, seconds) for size in sizes}
    saturation: dict[str, Saturation] = {}
    curve: Curve | None = None
    with running(name, model, workers, pictures(sizes[0])[0]) as server:
        time.sleep(_SETTLE_S)
        rest_ms_per_s = server.rest_ms_per_s(args.rest)
        for size in sizes:
            clients = workload.clients(workers, before[size].per_s)
            with pinned(workload, CLIENT):
                saturation[size] = _saturated(server.load(model, size), server, clients, seconds, args.repeats)
    if model in args.curves:
        rate = statistics.median(saturation[sizes[0]].load.throughputs)
        with running(name, model, workers, pictures(sizes[0])[0], rate) as server:
            curve = _curve(server, model, sizes[0], rate, seconds, args.arrivals)
    for size in sizes:
        bare, result = [before[size], loop.run(size, seconds)], saturation[size]
        relative_throughput = statistics.median(result.load.throughputs) / statistics.fmean(each.per_s for each in bare)
        yield Row(
            name, model, size, round(server.start_s, 1), result.load.throughputs, bare, round(relative_throughput, 3),
            round(result.cpu_ms(), 1), result.memory_mib, result.load.refused, round(rest_ms_per_s, 1),
            round(result.cpu_ms(rest_ms_per_s), 2),
        )  # fmt: skip
    if curve is not None:
        yield curve


@dataclass(frozen=True, slots=True)
class Saturation:
    """A server at saturation, with photos of one size."""

    load: Saturated
    took_s: float
    cpu_s: float
    memory_mib: int

    def cpu_ms(self, rest_ms_per_s: float = 0.0) -> float:
        """Return the processor time per answer beyond that which the server takes at rest."""
        answers = statistics.fmean(self.load.throughputs) * self.took_s
        return (1000 * self.cpu_s - rest_ms_per_s * self.took_s) / answers


def _saturated(load: Load, server: RunningServer, clients: int, seconds: float, repeats: int) -> Saturation:
    asyncio.run(load.closed_loop(clients, _WARM_S, 1, 0.0))
    before, began = server.cpu_s(), time.monotonic()
    found = asyncio.run(load.closed_loop(clients, seconds, repeats, 1.0))
    took_s, cpu_s = time.monotonic() - began, spent_s(before, server.cpu_s())
    if not statistics.median(found.throughputs):  # a single repeat without an answer is a pause
        raise RuntimeError(f"the server stopped answering: {found}")
    return Saturation(found, took_s, cpu_s, round(server.memory_mib()))


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
    parser.add_argument(
        "--models",
        nargs="+",
        choices=ON_ALL_CORES,
        metavar="WORKLOAD",
        help=f"workloads to measure: {'; '.join(ON_ALL_CORES)}. By default all but {LARGE}; with --one-core {BUNDLED}",
    )
    parser.add_argument(
        "--one-core", action="store_true", help="measure them with one worker on one core, at saturation only"
    )
    parser.add_argument(
        "--curves",
        nargs="*",
        choices=ON_ALL_CORES,
        metavar="WORKLOAD",
        help="workloads to measure with Poisson arrivals, too; by default bundled",
    )
    parser.add_argument(
        "--sizes", nargs="+", choices=SIZES, help="sizes of photos; by default 50 kB, and 300 kB for bundled"
    )
    parser.add_argument(
        "--servers", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS], help="servers to measure"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="duration of a measurement at saturation with the bundled model"
    )
    parser.add_argument("--rest", type=float, default=6.0, help="seconds without requests that are measured")
    parser.add_argument("--repeats", type=int, default=3, help="measurements at saturation")
    parser.add_argument("--arrivals", type=int, default=300, help="arrivals at each rate; twice as many at overload")
    parser.add_argument("--workers", type=int, help="workers of every server; by default one per core")
    parser.add_argument("--out", type=Path, default=OUT, help="result file")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    if args.one_core and (args.curves or args.workers or cores < 2):
        parser.error("--one-core takes two cores, and neither --curves nor --workers")
    models = args.models or ([BUNDLED] if args.one_core else list(DEFAULT))
    models = [on_one_core(model) for model in models] if args.one_core else models
    if args.curves is None:
        args.curves = [] if args.one_core else [BUNDLED]
    partial = args.sizes or len(args.servers) < len(OURS | PEERS)
    if partial and args.out == OUT:
        parser.error("a run of some servers or sizes would replace the full results: give another --out")
    end_in_order()
    environment = Environment.here(shlex.join(["python", "-m", "benchmarks.peers", *sys.argv[1:]]))
    int8 = has_int8_dot_products()
    for model in models:
        workers = args.workers or count_cores(WORKLOADS[model])
        pins = {name: [*PEERS[name].packages, *PEERS[name].forced] for name in args.servers if name in PEERS}
        run = Run(model, asdict(environment), throughput_by_threads(model, args.seconds), pins=pins, int8=int8)
        with loop_process(
            model, max(run.bare_per_s_by_threads, key=lambda count: run.bare_per_s_by_threads[count])
        ) as loop:
            for name in args.servers:
                try:
                    for row in measure_server(name, model, workers, loop, args):
                        if isinstance(row, Row):
                            run.rows.append(row)
                        else:
                            run.curves.append(row)
                        print(row.summary(), flush=True)
                except RuntimeError as error:
                    run.failed.append({"server": name, "error": str(error).splitlines()[-1]})
                    print(f"{model}, {name}: {error}", flush=True)
                write_json(DRAFT, asdict(run))
        save_run(args.out, run)


def save_run(out: Path, run: Run) -> None:
    """Write a run to the result file and its plot, replacing the earlier one of the workload."""
    runs = merge_runs(out, run, list(WORKLOADS))
    result = {
        "environment": run.environment,
        "workloads": {each.model: asdict(WORKLOADS[each.model]) for each in runs},
        "runs": [asdict(each) for each in runs],
    }
    write_json(out, result)
    plot(
        out.with_suffix(".png"), [row for each in runs for row in each.rows], [c for each in runs for c in each.curves]
    )


if __name__ == "__main__":
    main()
