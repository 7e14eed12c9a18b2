"""Load a server while killing its processes and swapping its policy: `make chaos`.

The load is open-loop, at 0.5, 1 and 2 times the capacity: Poisson arrivals of stills, clips and 5 % hostile files, to a
server with two ingress replicas. Every request is followed to its end. It is retried only if its connection broke, or
if Ray Serve itself answered with a plain 500, 502 or 503 because a process was killed. Goodput is measured in the
phases without kills.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

from rich.console import Console

from benchmarks import fake_models
from benchmarks.chaos.checks import checks
from benchmarks.chaos.drive import Driver
from benchmarks.chaos.files import files
from benchmarks.chaos.plan import FULL, SHORT
from benchmarks.chaos.plot import plot
from benchmarks.chaos.report import show, write
from benchmarks.environment import Environment
from benchmarks.server import ROOT, started
from roadwork_serve.api.api_keys import TEXT_VARIABLE, new_key

REPLICAS = 2
# Service times of the fake models; about the throughput of the miniatures on two cores.
ITEM_MS = {"backbone": 70.0, "signs": 100.0, "vlm": 100.0, "reasoner": 150.0, "video": 150.0}


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="run for a minute with fake models; all checks apply")
    parser.add_argument(
        "--ignore-timing", action="store_true", help="do not fail on checks of times, for busy machines"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the arrivals and the files")
    parser.add_argument(
        "--out", type=Path, help="result file; benchmarks/results/chaos.json, or build/chaos.json with --short"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark. Returns 0 if every check passed that counts."""
    chosen = _options(arguments)
    console = Console(width=170)
    plan = SHORT if chosen.short else FULL
    out: Path = chosen.out or ROOT / ("build/chaos.json" if chosen.short else "benchmarks/results/chaos.json")
    command = " ".join(["python -m benchmarks.chaos", *(sys.argv[1:] if arguments is None else arguments)])
    environment, began = Environment.here(command), time.monotonic()
    secret, key = new_key("chaos", "admin")
    console.print("Rendering scenes and starting a server ...")
    sent = files(plan.stills, plan.clips)
    driver = Driver(plan, chosen.seed, sent, lambda line: console.print(line, highlight=False))
    overrides = fake_models.overrides(ITEM_MS, REPLICAS) if chosen.short else {"ingress": {"replicas": REPLICAS}}
    args, builder = {"profile": "mini", "overrides": overrides}, fake_models.BUILDER if chosen.short else None
    with started(ROOT / "build/chaos-server.log", args, {TEXT_VARIABLE: key.entry()}, builder, settled=True) as server:
        run = asyncio.run(driver.run(server, secret, REPLICAS))
    found = checks(run.observations)
    show(console, run, found)
    write(out, run, plan, chosen.seed, found, environment)
    plot(run, plan.deadline_ms / 1000, out.with_suffix(".png"))
    console.print(f"Written to {out}, with a plot beside it, after {time.monotonic() - began:.0f} s.")
    return 0 if all(check.passed or (chosen.ignore_timing and check.timing_dependent) for check in found) else 1


if __name__ == "__main__":
    sys.exit(main())
