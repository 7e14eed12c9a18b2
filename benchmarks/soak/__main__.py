"""Send a steady load for an hour and check that nothing is lost and nothing grows: `make soak`.

A server with the miniatures gets stills, clips, hostile files and hang-ups from a few clients, as raw bodies, JSON and
forms. Meanwhile the memory (PSS), descriptors and threads of all its processes, Ray's included, are sampled. At the end
the answers are compared with the rows of the journal, and the last tenth of the samples with the middle one.
Ctrl-C ends the load early.
"""

import argparse
import asyncio
import shlex
import signal
import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.chaos.api import Api
from benchmarks.chaos.files import files
from benchmarks.chaos.plan import INGRESS, STAGES, File
from benchmarks.chaos.processes import pids
from benchmarks.environment import Environment
from benchmarks.server import ROOT, Server, end_in_order, started
from benchmarks.soak.checks import Observations, checks, outcomes
from benchmarks.soak.load import send
from benchmarks.soak.samples import Sample, course, names, watch
from benchmarks.tables import RESULTS
from roadwork_serve.atomic_write import write_json

STILLS, CLIPS = 30, 5
DEADLINE_MS = 20_000
START_S = 900.0  # others may use the machine
WARM_S = 30.0  # of the load before the first sample
EVERY_S = 10.0
DRAIN_S = 60.0
SERIES = 60  # samples of the whole tree that the result keeps


@dataclass(frozen=True, slots=True)
class Plan:
    """The load of a run."""

    minutes: float
    per_s: float
    clients: int
    seed: int


async def observe(server: Server, plan: Plan, sent: list[File]) -> Observations:
    """Send the load to a server and return what was seen."""
    samples: list[Sample] = []
    stop, began = asyncio.Event(), time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Api(server.url) as api:
        replicas_before = _replicas(server)
        sending = asyncio.create_task(
            send(server.url, sent, plan.per_s, 60 * plan.minutes, plan.clients, plan.seed, DEADLINE_MS, stop)
        )
        await asyncio.sleep(WARM_S)
        watching = asyncio.create_task(watch(server.pid, EVERY_S, samples))
        try:
            requests = await sending
        finally:
            watching.cancel()
        minutes = (time.monotonic() - began) / 60
        leftovers = await api.remaining_work(1, DRAIN_S)
        dropped = await _journal_written(api)
    return Observations(
        minutes=minutes,
        requests=requests,
        samples=samples,
        rows=_rows(server),
        dropped=dropped,
        replicas_before=replicas_before,
        replicas_after=_replicas(server),
        leftovers=leftovers,
    )


async def _journal_written(api: Api) -> int:
    """Wait until the journal has acknowledged all records. Return how many it lost."""
    give_up_at = time.monotonic() + DRAIN_S
    while True:
        journals = [load.journal for load in await api.loads() if load.journal]
        if journals and not any(journal.pending for journal in journals):
            return sum(journal.dropped for journal in journals)
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"the journal did not write all records within {DRAIN_S:.0f} s")
        await asyncio.sleep(0.5)


def _rows(server: Server) -> dict[str, int]:
    """Return the number of rows of the server's journal by request id."""
    path = server.journal.removeprefix("sqlite:///")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT request_id, count(*) FROM predictions GROUP BY request_id"))


def _replicas(server: Server) -> frozenset[int]:
    return frozenset(pid for target in (INGRESS, "Journal", *STAGES) for pid in pids(server, target))


def figures(seen: Observations) -> dict[str, Any]:
    """Return the figures of a run: outcomes, rows, and the course of all processes by role."""
    samples = seen.samples
    took_s = sorted(request.took_s for request in seen.requests if request.outcome == "answered")
    step = max(1, len(samples) // SERIES)
    return {
        "minutes": round(seen.minutes, 1),
        "outcomes": outcomes(seen.requests),
        "answers_by_form": {
            form: sum(r.form == form and r.outcome == "answered" for r in seen.requests)
            for form in ("raw", "json", "form")
        },
        "p50_s": round(_quantile(took_s, 0.5), 3),
        "p95_s": round(_quantile(took_s, 0.95), 3),
        "max_s": round(_quantile(took_s, 1.0), 3),
        "journal_rows": sum(seen.rows.values()),
        "tree": {
            what: _course([getattr(sample.tree, what) for sample in samples])
            for what in ("processes", "memory_mib", "descriptors", "threads")
        },
        "memory_mib": {
            name: _course([s.roles[name].memory_mib if name in s.roles else 0.0 for s in samples])
            for name in names(samples)
        },
        "series": [
            {"at_s": round(sample.at_s), **_rounded(asdict(sample.tree))} for sample in samples[:: step]
        ],
    }  # fmt: skip


def _course(values: list[float]) -> dict[str, float]:
    return _rounded(asdict(course(values)))


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in values.items()}


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="duration of the load")
    parser.add_argument("--rate", type=float, default=1.5, help="requests per second, of all clients together")
    parser.add_argument("--clients", type=int, default=4, help="number of clients, each with its own connections")
    parser.add_argument("--seed", type=int, default=1, help="seed of the arrivals, the files and their forms")
    parser.add_argument("--note", default="", help="circumstances of the run, recorded in the result")
    parser.add_argument("--out", type=Path, default=RESULTS / "soak.json", help="result file")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark. Returns 0 if every check passed."""
    chosen = _options(arguments)
    end_in_order()
    console = Console(width=170)
    plan = Plan(chosen.minutes, chosen.rate, chosen.clients, chosen.seed)
    given = sys.argv[1:] if arguments is None else arguments
    environment = Environment.here(shlex.join(["python", "-m", "benchmarks.soak", *given]))
    console.print("Rendering scenes and starting a server ...")
    sent = files(STILLS, CLIPS)
    with started(
        ROOT / f"build/{chosen.out.stem}-server.log", {"profile": "mini"}, start_s=START_S, settled=True
    ) as server:
        console.print(f"Sending {plan.per_s:g} requests per second for {plan.minutes:g} minutes to {server.url}")
        seen = asyncio.run(observe(server, plan, sent))
    found = checks(seen)
    for check in found:
        console.print(f"{'passed' if check.passed else 'FAILED'} {check.claim}: {check.observed}", highlight=False)
    result = {
        "environment": asdict(environment),
        "note": chosen.note,
        "plan": asdict(plan),
        "passed": all(check.passed for check in found),
        "checks": [asdict(check) for check in found],
    }
    write_json(chosen.out, result | figures(seen))
    console.print(f"Written to {chosen.out}.")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
