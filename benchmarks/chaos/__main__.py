"""`make chaos`: an open-loop load at 0.5, 1 and 2 times the capacity while processes are killed and policies swapped.

Poisson arrivals of stills, clips and 5 % hostile files hit a server of its own with two ingress replicas. Every request
is followed to its end, and sent again only when its connection broke, or Serve itself answered with a plain 500, 502 or
503, because a process was killed under it. Goodput is of phases in which nothing is killed.
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
# Of the stand-ins, so that the rate is that of the miniatures on two cores.
ITEM_MS = {"backbone": 70.0, "signs": 100.0, "vlm": 100.0, "reasoner": 150.0, "video": 150.0}


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.chaos", description=__doc__)
    parser.add_argument(
        "--short", action="store_true", help="a minute, with all the checks, over stand-ins without models"
    )
    parser.add_argument(
        "--exact", action="store_true", help="fail on counts alone, not on times: for machines with other things to do"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the arrivals and the files")
    parser.add_argument("--out", type=Path, help="JSON; benchmarks/results/chaos.json, with --short build/chaos.json")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """0 when every check that counts held, 1 when one did not."""
    chosen = _options(arguments)
    console = Console(width=170)
    plan = SHORT if chosen.short else FULL
    out: Path = chosen.out or ROOT / ("build/chaos.json" if chosen.short else "benchmarks/results/chaos.json")
    command = " ".join(["python -m benchmarks.chaos", *(sys.argv[1:] if arguments is None else arguments)])
    environment, began = Environment.here(command), time.monotonic()
    secret, key = new_key("chaos", "admin")
    console.print("Drawing scenes, starting a server ...")
    sent = files(plan)
    driver = Driver(plan, chosen.seed, sent, lambda line: console.print(line, highlight=False))
    overrides = fake_models.overrides(ITEM_MS, REPLICAS) if chosen.short else {"ingress": {"replicas": REPLICAS}}
    args, builder = {"profile": "mini", "overrides": overrides}, fake_models.BUILDER if chosen.short else None
    with started(ROOT / "build/chaos-server.log", args, {TEXT_VARIABLE: key.entry()}, builder) as server:
        storm = asyncio.run(driver.run(server, secret, REPLICAS))
    found = checks(storm.told)
    show(console, storm, found)
    write(out, storm, plan, chosen.seed, found, environment)
    plot(storm, plan.deadline_ms / 1000, out.with_suffix(".png"))
    console.print(f"Written to {out}, with a picture beside it, after {time.monotonic() - began:.0f} s.")
    return 0 if all(check.held or (chosen.exact and check.timed) for check in found) else 1


if __name__ == "__main__":
    sys.exit(main())
