"""Measures the models of the cascade at full size on a GPU: `python -m benchmarks.gpu`.

The weights are random, for speed does not depend on them, so nothing is downloaded. Needs torch, transformers and
yaml, and matplotlib for the picture. Every row is written as soon as it is known and kept by later runs on the same
card, so that a long measurement can be made in several commands (--parts, --modes).
"""

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from benchmarks.gpu_models import backbone, florence, molmo, qwen
from benchmarks.gpu_models.cascade import cascade
from benchmarks.gpu_models.clock import Job, measured
from benchmarks.gpu_models.machine import TINY_CARD, Machine
from benchmarks.gpu_models.plan import FULL, TINY, Plan
from benchmarks.gpu_models.plot import plot
from benchmarks.gpu_models.results import Failure, Mode, Part, Results, file_name, read

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks/results"
MOST_TOLD = 600  # characters of an error


class Session:
    """One command's measurements on top of what the file holds already."""

    def __init__(self, machine: Machine, plan: Plan, path: Path, command: str) -> None:
        self.machine, self.plan, self.path = machine, plan, path
        self.results = read(path) if path.is_file() else Results(machine.card)
        if self.results.card != machine.card:
            raise ValueError(f"{path} is of the card {self.results.card}, and this is {machine.card}: use --out")
        self.began = time.perf_counter()
        run = machine.run(command, plan.peak_side)
        self.peak, self.index = run.peak, len(self.results.runs)
        self.results = replace(self.results, runs=(*self.results.runs, run))
        self.failed = 0
        self._write()

    def measure(self, part: Part, jobs: Iterator[Job]) -> None:
        """Every job of a part. One that fails is noted, and the others go on."""
        self.results = self.results.without_failure(part)
        try:
            for job in jobs:
                self._measure(job)
        except Exception as e:  # the part's model could not be built, or its inputs
            self._failed(Failure(part, told(e), self.index))
        gc.collect()

    def estimate(self, report: Path) -> None:
        """Estimate the cascade from the measurements so far."""
        try:
            self.results = self.results.with_cascade(cascade(self.results, report, self.plan))
            self._write()
        except (ValueError, KeyError, OSError) as e:
            self._failed(Failure("cascade", told(e), self.index))

    def note(self, text: str) -> None:
        """Say in the run's record what was left out."""
        *before, run = self.results.runs
        self.results = replace(self.results, runs=(*before, replace(run, notes=(*run.notes, text))))
        self._write()

    def _measure(self, job: Job) -> None:
        try:
            row = measured(job, self.machine, self.plan.effort, self.peak, self.index)
        except Exception as e:  # out of memory, an operator that this version lacks: the next case may do
            self._failed(Failure(job.case.part, told(e), self.index, job.case))
            return
        self.results = self.results.with_row(row)
        self._write()
        print(
            f"{job.case}: {row.timing.median_ms:.2f} ms, {row.per_s:.1f}/s, {row.gflop:.1f} GFLOP each, "
            f"{row.peak_share:.0%} of peak",
            flush=True,
        )

    def _failed(self, failure: Failure) -> None:
        self.failed += 1
        self.results = self.results.with_failure(failure)
        self._write()
        print(f"FAILED {failure.case or failure.part}: {failure.error}", file=sys.stderr, flush=True)

    def _write(self) -> None:
        *before, run = self.results.runs
        run = replace(run, elapsed_s=time.perf_counter() - self.began)
        self.results = replace(self.results, runs=(*before, run))
        self.results.write(self.path)


def told(error: BaseException) -> str:
    """Return an error's kind and the beginning of what it says."""
    return f"{type(error).__name__}: {error}"[:MOST_TOLD]


def draw(path: Path) -> None:
    """Plot the results beside the file, if matplotlib is installed."""
    if find_spec("matplotlib") is None:
        print(f"matplotlib is not installed: draw with `python -m benchmarks.gpu --plot {path}` where it is")
        return
    plot(read(path), path.with_suffix(".png"))
    print(f"drawn to {path.with_suffix('.png')}")


def again(path: Path, report: Path) -> None:
    """Compute the cascade anew from a file and draw it; needs no card."""
    results = read(path)
    plan = TINY if results.card == TINY_CARD else FULL
    results.with_cascade(cascade(results, report, plan)).write(path)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parts, modes = get_args(Part), get_args(Mode)
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="toy models on a CPU, to try the benchmark out")
    parser.add_argument("--parts", default=",".join(parts), help="some of %(default)s")
    parser.add_argument("--modes", default=",".join(modes), help="of stage 1: some of %(default)s")
    parser.add_argument("--out", type=Path, help="folder of the results; benchmarks/results, or with --tiny build/gpu")
    parser.add_argument("--scenes", type=Path, default=OUT / "scenes.json", help="whose exit mix the cascade is for")
    parser.add_argument("--plot", type=Path, metavar="JSON", help="measure nothing: draw this file")
    parser.add_argument("--cascade", type=Path, metavar="JSON", help="measure nothing: work out its cascade again")
    chosen = parser.parse_args(arguments)
    for name, known in (("parts", parts), ("modes", modes)):
        setattr(chosen, name, tuple(getattr(chosen, name).split(",")))
        for word in getattr(chosen, name):
            if word not in known:
                parser.error(f"--{name}: {word!r} is none of {', '.join(known)}")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """0 when all that was asked for was measured, 1 when something failed and the file says what."""
    chosen = _options(arguments)
    if chosen.cascade or chosen.plot:
        if chosen.cascade:
            again(chosen.cascade, chosen.scenes)
        draw(chosen.cascade or chosen.plot)
        return 0
    try:
        machine = Machine.here(chosen.tiny)
        path = (chosen.out or (ROOT / "build/gpu" if chosen.tiny else OUT)) / file_name(machine.card)
        command = " ".join(["python -m benchmarks.gpu", *(sys.argv[1:] if arguments is None else arguments)])
        session = Session(machine, TINY if chosen.tiny else FULL, path, command)
    except (RuntimeError, ValueError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    modes = chosen.modes
    if "tensorrt" in modes and find_spec("tensorrt") is None:
        modes = tuple(mode for mode in modes if mode != "tensorrt")
        session.note("tensorrt: not installed")
    of = {"florence": florence.jobs, "qwen": qwen.jobs, "molmo": molmo.jobs,
          "stage1": partial(backbone.jobs, modes=modes)}  # fmt: skip
    for part in (p for p in get_args(Part) if p in chosen.parts and p != "cascade"):
        session.measure(part, of[part](machine, session.plan))
    if "cascade" in chosen.parts:
        session.estimate(chosen.scenes)
    draw(path)
    print(f"written to {path}, {session.failed} failed")
    return 1 if session.failed else 0


if __name__ == "__main__":
    sys.exit(main())
