"""`make bench` and `make bench-quick`: every measurement that needs no GPU, one after the other, and the tables of it.

Each is a command of its own, and its result a file in `benchmarks/results/` with a picture where people look. Quick,
all are so short that their figures mean nothing: results go to a folder of their own, and all that is asked of them is
that they are there and well formed.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.server import ROOT
from benchmarks.tables import RESULTS

QUICK = ROOT / "build/quick"


@dataclass(frozen=True, slots=True)
class Measurement:
    """A module of benchmarks that takes --out. minutes: about what it takes on two cores. quick: what makes it short.

    draws: whether a picture lies beside its result. keys: what a result must have at the least.
    """

    name: str
    minutes: int
    quick: tuple[str, ...]
    keys: tuple[str, ...]
    draws: bool = True


ALL = (
    Measurement("decode", 2, ("--pictures", "1", "--repeats", "2"), ("sides",), draws=False),
    Measurement("batching", 10, ("--quick",), ("rows", "models")),
    Measurement("cost_accuracy", 15, ("--quick",), ("judged",)),
    Measurement(
        "overhead", 17, ("--models", "bundled", "--seconds", "2", "--repeats", "1"), ("rows",), draws=False
    ),
    Measurement(
        "peers", 90,
        ("--models", "bundled", "--sizes", "50 kB", "--servers", "FastAPI", "roadwork-serve, fast", "--seconds", "1.5",
         "--repeats", "1", "--arrivals", "50", "--workers", "2"),
        ("runs", "works"),
    ),
)  # fmt: skip


def measure(each: Measurement, folder: Path, quick: bool) -> Path:
    """Run it as its own command. Raises CalledProcessError when it fails, ValueError when its result is none.

    A server that did not run is told of; quick, where there are but two, it is a ValueError.
    """
    out = folder / f"{each.name}.json"
    command = [sys.executable, "-m", f"benchmarks.{each.name}", *(each.quick if quick else ()), "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True)
    result = json.loads(out.read_text())
    well_formed(result, each)
    try:
        all_ran(result, each)
    except ValueError as error:
        if quick:
            raise
        print(error, flush=True)
    if each.draws and not out.with_suffix(".png").read_bytes().startswith(b"\x89PNG"):
        raise ValueError(f"{each.name} drew no picture")
    return out


def well_formed(result: Mapping[str, Any], each: Measurement) -> None:
    """Raise ValueError for a result without its environment or its parts."""
    for key in ("environment", *each.keys):
        if not result.get(key):
            raise ValueError(f"the result of {each.name} has no {key}")
    if not {"command", "cpu", "cores", "date"} <= set(result["environment"]):
        raise ValueError(f"the result of {each.name} does not say where it ran")


def all_ran(result: Mapping[str, Any], each: Measurement) -> None:
    """Raise ValueError if a part of it failed."""
    if failed := [why for run in result.get("runs", ()) for why in run["failed"]]:
        raise ValueError(f"not all of {each.name} ran: {failed}")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all ran and their results are well formed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=[each.name for each in ALL])
    chosen = parser.parse_args(arguments)
    wanted = [each for each in ALL if chosen.only is None or each.name in chosen.only]
    folder = QUICK if chosen.quick else RESULTS
    if chosen.quick:
        shutil.rmtree(QUICK, ignore_errors=True)  # a result keeps what it has of models that are not measured now
    folder.mkdir(parents=True, exist_ok=True)
    for each in wanted:
        began = time.monotonic()
        print(f"{each.name}: " + ("short" if chosen.quick else f"about {each.minutes} minutes"), flush=True)
        out = measure(each, folder, chosen.quick)
        print(f"{each.name}: {out} after {time.monotonic() - began:.0f} s", flush=True)
    if not chosen.quick:
        subprocess.run([sys.executable, "-m", "benchmarks.tables"], cwd=ROOT, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
