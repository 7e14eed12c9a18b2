"""Compare this server with others over the same models, photos and decoding: `python -m benchmarks.peers`.

1.0 is a bare loop over the same decoding and model in one process, with the number of threads that is fastest for it.
It runs before and after each server, while nothing else runs. In between, the server is started for each workload with
limits that reject nothing. Its processor time is measured without requests, and while closed-loop clients saturate it
with photos of each size. Then it is restarted with the latency limit as its deadline and queues bounded by its measured
throughput, and receives Poisson arrivals of photos of the first size at shares of that throughput, and at 1.5 times it.
Latency is counted from the time a request was due.

All servers are measured in turn, then again in reverse, and so on, since the speed of a virtual machine drifts. The
result has the medians of these rounds, and the curve of the round with the median goodput.

The bundled backbone is that of the profile cpu, in ONNX Runtime, and in 8 bits where the CPU has 8-bit dot products. In
the workloads "as shipped" the others and the bare loop run it in float32, the model that they are given, and this
server runs the graph in 8 bits that it ships. The larger backbones run in PyTorch everywhere.

The client shares the cores with the server. Each server has as many workers as there are cores, each with one thread.
With --one-core it has one worker and one core, as has the bare loop, and the client has another one. A server that
fails with a workload is reported; the others run. The result has a run for each workload. Those of workloads that are
not measured this time are kept.

On two cores this takes about two hours as by default, a quarter of an hour more with --one-core, which is a run of its
own, and half an hour more for vit-l. First it installs what the other servers need.
"""

import argparse
import asyncio
import itertools
import os
import shlex
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.environment import Environment
from benchmarks.peers.bare import LoopProcess, LoopResult, loop_process, throughput_by_threads
from benchmarks.peers.cores import CLIENT, count_cores, pinned
from benchmarks.peers.load import Load, Point, Saturated
from benchmarks.peers.pictures import SIZES, pictures
from benchmarks.peers.plot import plot
from benchmarks.peers.results import Curve, Row, Run, combine_curves, combine_rows, merge_runs
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
_SETTLE_S = 4.0  # between the start and the measurement at rest
_WARM_S, _WARM_AGAIN_S = 8.0, 3.0  # of load before a measurement: a server's first, and later ones


@dataclass(frozen=True, slots=True)
class Saturation:
    """A server at saturation, with photos of one size."""

    load: Saturated
    took_s: float
    #: Processor time by role of a process.
    cpu_s: dict[str, float]
    memory_mib: int

    @property
    def answers(self) -> float:
        """The number of answers in the time measured."""
        return self.load.throughputs[0] * self.took_s

    def cpu_ms(self, rest_ms_per_s: float = 0.0) -> float:
        """Return the processor time per answer beyond that which the server takes at rest."""
        return (1000 * sum(self.cpu_s.values()) - rest_ms_per_s * self.took_s) / self.answers

    def cpu_ms_by_role(self) -> dict[str, float]:
        """Return the processor time per answer of the processes in a role, the longest first."""
        times = {role: round(1000 * cpu_s / self.answers, 1) for role, cpu_s in self.cpu_s.items()}
        return {role: ms for role, ms in sorted(times.items(), key=lambda each: -each[1]) if ms >= 0.1}


@dataclass(frozen=True, slots=True)
class Measured:
    """A server in one round."""

    start_s: float
    rest_ms_per_s: float
    #: By size of the photos.
    saturation: dict[str, Saturation]
    curve: Curve | None

    def rows(self, name: str, model: str, bare: Mapping[str, list[LoopResult]]) -> Iterator[Row]:
        """Yield a row for each size, beside the runs of the bare loop right before and right after."""
        for size, found in self.saturation.items():
            bare_per_s = statistics.fmean(each.per_s for each in bare[size])
            yield Row(
                name, model, size, round(self.start_s, 1), found.load.throughputs, bare[size],
                round(found.load.throughputs[0] / bare_per_s, 3), round(found.cpu_ms(), 1),
                found.memory_mib, found.load.refused, round(self.rest_ms_per_s, 1),
                round(found.cpu_ms(self.rest_ms_per_s), 2), cpu_ms_by_role=found.cpu_ms_by_role(),
            )  # fmt: skip


def measure_server(
    name: str, model: str, workers: int, bare_per_s: Mapping[str, float], args: argparse.Namespace
) -> Measured:
    """Measure one server, from its start to its end. The rates of the bare loop, by size, tell how many clients ask."""
    workload = WORKLOADS[model]
    seconds = args.seconds * workload.pace
    first, *_ = bare_per_s
    with running(name, model, workers, pictures(first)[0]) as server:
        time.sleep(_SETTLE_S)
        start_s, rest_ms_per_s = server.start_s, server.rest_ms_per_s(args.rest)
        saturation: dict[str, Saturation] = {}
        for size, per_s in bare_per_s.items():
            with pinned(workload, CLIENT):
                load, clients = server.load(model, size), workload.clients(workers, per_s)
                asyncio.run(load.closed_loop(clients, _WARM_AGAIN_S if saturation else _WARM_S, 1, 0.0))
                saturation[size] = _saturated(load, server, clients, seconds)
    curve: Curve | None = None
    if model in args.curves:
        rate = saturation[first].load.throughputs[0]
        with running(name, model, workers, pictures(first)[0], rate) as server:
            curve = _curve(server, model, first, rate, seconds, args.arrivals)
    return Measured(start_s, rest_ms_per_s, saturation, curve)


def _saturated(load: Load, server: RunningServer, clients: int, seconds: float) -> Saturation:
    before, began = server.by_pid(), time.monotonic()
    found = asyncio.run(load.closed_loop(clients, seconds, 1, 1.0))
    took_s, cpu_s = time.monotonic() - began, spent_s(before, server.by_pid())
    if not found.throughputs[0]:
        raise RuntimeError(f"the server stopped answering: {found}")
    return Saturation(found, took_s, cpu_s, round(server.memory_mib()))


def _curve(server: RunningServer, model: str, size: str, rate: float, seconds: float, arrivals: int) -> Curve:
    load = server.load(model, size)
    asyncio.run(load.open_loop(SHARES[0] * rate, _WARM_AGAIN_S + WORKLOADS[model].limit_s, seed=0))

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
        "--seconds", type=float, default=5.0, help="duration of a measurement at saturation with the bundled model"
    )
    parser.add_argument("--rest", type=float, default=4.0, help="seconds without requests that are measured")
    parser.add_argument("--rounds", type=int, default=3, help="over all servers, every second one in reverse")
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
        run = Run(model, asdict(environment), throughput_by_threads(model, 2.0), pins=pins, int8=int8)
        with loop_process(
            model, max(run.bare_per_s_by_threads, key=lambda count: run.bare_per_s_by_threads[count])
        ) as loop:
            measure_rounds(run, workers, loop, args)
        save_run(args.out, run)


def measure_rounds(run: Run, workers: int, loop: LoopProcess, args: argparse.Namespace) -> None:
    """Fill a run with the servers' rows and curves, after each server those of the rounds so far."""
    model = run.model
    sizes, seconds = args.sizes or SIZED.get(model, ("50 kB",)), args.seconds * WORKLOADS[model].pace
    rows: dict[tuple[str, str], list[Row]] = {(name, size): [] for name in args.servers for size in sizes}
    curves: dict[str, list[Curve]] = {name: [] for name in args.servers}
    before = {size: loop.run(size, seconds) for size in sizes}
    for round_ in range(args.rounds):
        for name in args.servers[:: 1 if round_ % 2 == 0 else -1]:
            try:
                found = measure_server(name, model, workers, {size: each.per_s for size, each in before.items()}, args)
            except RuntimeError as error:
                run.failed.append({"server": name, "error": str(error).splitlines()[-1]})
                print(f"{model}, {name}: {error}", flush=True)
                continue
            after = {size: loop.run(size, seconds) for size in sizes}
            for row in found.rows(name, model, {size: [before[size], after[size]] for size in sizes}):
                rows[name, row.size].append(row)
                print(row.summary(), flush=True)
            if found.curve is not None:
                curves[name].append(found.curve)
                print(found.curve.summary(), flush=True)
            before = after
            run.rows[:] = [combine_rows(each) for each in rows.values() if each]
            run.curves[:] = [combine_curves(each) for each in curves.values() if each]
            write_json(DRAFT, asdict(run))


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
