"""Run every benchmark that needs no GPU, then update the tables: `make bench` and `make bench-quick`.

Each benchmark is a command of its own. It writes a result file to `benchmarks/results/`, some with a plot beside it.
Quick runs are too short for their figures to mean anything: their results go to another folder, and are only checked
for completeness.
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
    """A benchmark: a module of this package that takes --out."""

    name: str
    #: Approximate duration on two cores.
    minutes: int
    #: Arguments that make the run short.
    quick: tuple[str, ...]
    #: Keys that a result must have.
    keys: tuple[str, ...]
    #: Whether a plot is written beside the result.
    has_plot: bool = True


ALL = (
    Measurement("decode", 2, ("--images", "1", "--repeats", "2"), ("sides",), has_plot=False),
    Measurement("batching", 10, ("--quick",), ("rows", "models")),
    Measurement("cost_accuracy", 15, ("--quick",), ("results",)),
    Measurement(
        "overhead", 17, ("--models", "bundled", "--seconds", "2", "--repeats", "1"), ("rows",), has_plot=False
    ),
    Measurement(
        "peers", 120,
        ("--models", "bundled", "--sizes", "50 kB", "--servers", "FastAPI", "roadwork-serve", "--seconds", "1.5",
         "--rounds", "1", "--arrivals", "20", "--workers", "2"),
        ("runs", "workloads"),
    ),
)  # fmt: skip


def measure(benchmark: Measurement, folder: Path, quick: bool) -> Path:
    """Run a benchmark as a command and return its result file.

    A server that failed to run is reported; in a quick run, which has only two, it is an error.

    Raises:
        CalledProcessError: if the command fails.
        ValueError: if the result is incomplete.
    """
    out = folder / f"{benchmark.name}.json"
    command = [
        sys.executable,
        "-m",
        f"benchmarks.{benchmark.name}",
        *(benchmark.quick if quick else ()),
        "--out",
        str(out),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    result = json.loads(out.read_text())
    check_well_formed(result, benchmark)
    try:
        check_all_ran(result, benchmark)
    except ValueError as error:
        if quick:
            raise
        print(error, flush=True)
    if benchmark.has_plot and not out.with_suffix(".png").read_bytes().startswith(b"\x89PNG"):
        raise ValueError(f"{benchmark.name} wrote no plot")
    return out


def check_well_formed(result: Mapping[str, Any], benchmark: Measurement) -> None:
    """Raise ValueError if a result lacks its environment or one of its keys."""
    for key in ("environment", *benchmark.keys):
        if not result.get(key):
            raise ValueError(f"the result of {benchmark.name} has no {key}")
    if not {"command", "cpu", "cores", "date"} <= set(result["environment"]):
        raise ValueError(f"the result of {benchmark.name} does not record where it ran")


def check_all_ran(result: Mapping[str, Any], benchmark: Measurement) -> None:
    """Raise ValueError if a part of the benchmark failed."""
    if failed := [error for run in result.get("runs", ()) for error in run["failed"]]:
        raise ValueError(f"not all of {benchmark.name} ran: {failed}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks. Returns 0 if all ran and their results are complete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run briefly, to check that the benchmarks work")
    parser.add_argument("--only", nargs="+", choices=[benchmark.name for benchmark in ALL], help="run only these")
    args = parser.parse_args(arguments)
    selected = [benchmark for benchmark in ALL if args.only is None or benchmark.name in args.only]
    folder = QUICK if args.quick else RESULTS
    if args.quick:
        shutil.rmtree(QUICK, ignore_errors=True)  # a benchmark keeps the results of models that it does not measure
    folder.mkdir(parents=True, exist_ok=True)
    for benchmark in selected:
        began = time.monotonic()
        print(
            f"{benchmark.name}: " + ("a short run" if args.quick else f"about {benchmark.minutes} minutes"), flush=True
        )
        out = measure(benchmark, folder, args.quick)
        print(f"{benchmark.name}: wrote {out} after {time.monotonic() - began:.0f} s", flush=True)
    if not args.quick:
        subprocess.run([sys.executable, "-m", "benchmarks.tables"], cwd=ROOT, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
