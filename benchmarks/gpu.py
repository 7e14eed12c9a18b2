"""Measure the models of the cascade at full size on a GPU: `python -m benchmarks.gpu`.

The weights are random, because speed does not depend on them, so nothing is downloaded. Requires torch, transformers
and yaml, and matplotlib for the plot. Every row is written as soon as it is measured, and kept by later runs on the
same GPU, so that a long measurement can be split into several commands (--parts, --modes).
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
from benchmarks.gpu_models.clock import Job, measure
from benchmarks.gpu_models.machine import TINY_NAME, Machine
from benchmarks.gpu_models.plan import FULL, TINY, Plan
from benchmarks.gpu_models.plot import plot
from benchmarks.gpu_models.results import Failure, Mode, Part, Results, file_name, read

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks/results"
MAX_ERROR_LENGTH = 600  # in characters


class Session:
    """The measurements of one command, added to those in the file."""

    def __init__(self, machine: Machine, plan: Plan, path: Path, command: str) -> None:
        self.machine, self.plan, self.path = machine, plan, path
        self.results = read(path) if path.is_file() else Results(machine.gpu)
        if self.results.gpu != machine.gpu:
            raise ValueError(f"{path} has the results of {self.results.gpu}, but this GPU is {machine.gpu}: use --out")
        self.began = time.perf_counter()
        run = machine.run(command, plan.peak_side)
        self.peak, self.index = run.peak, len(self.results.runs)
        self.results = replace(self.results, runs=(*self.results.runs, run))
        self.failed = 0
        self._write()

    def measure(self, part: Part, jobs: Iterator[Job]) -> None:
        """Measure every job of a part. A job that fails is recorded, and the others run."""
        self.results = self.results.without_failure(part)
        try:
            for job in jobs:
                self._measure(job)
        except Exception as e:  # the model or its inputs could not be built
            self._failed(Failure(part, describe(e), self.index))
        gc.collect()

    def estimate(self, report: Path) -> None:
        """Estimate the cascade from the measurements so far."""
        try:
            self.results = self.results.with_cascade(cascade(self.results, report, self.plan))
            self._write()
        except (ValueError, KeyError, OSError) as e:
            self._failed(Failure("cascade", describe(e), self.index))

    def note(self, text: str) -> None:
        """Add a note to the run's record."""
        *before, run = self.results.runs
        self.results = replace(self.results, runs=(*before, replace(run, notes=(*run.notes, text))))
        self._write()

    def _measure(self, job: Job) -> None:
        try:
            row = measure(job, self.machine, self.plan.effort, self.peak, self.index)
        except Exception as e:  # out of memory or an unsupported operator: the next case may work
            self._failed(Failure(job.case.part, describe(e), self.index, job.case))
            return
        self.results = self.results.with_row(row)
        self._write()
        print(
            f"{job.case}: {row.timing.median_ms:.2f} ms, {row.per_s:.1f}/s, {row.gflop:.1f} GFLOP per item, "
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


def describe(error: BaseException) -> str:
    """Return an error's type and message, shortened."""
    return f"{type(error).__name__}: {error}"[:MAX_ERROR_LENGTH]


def draw_plot(path: Path) -> None:
    """Plot the results beside the file, if matplotlib is installed."""
    if find_spec("matplotlib") is None:
        print(f"matplotlib is not installed. Plot where it is, with `python -m benchmarks.gpu --plot {path}`")
        return
    plot(read(path), path.with_suffix(".png"))
    print(f"plotted to {path.with_suffix('.png')}")


def recompute(path: Path, report: Path) -> None:
    """Recompute the estimate of the cascade in a file; needs no GPU."""
    results = read(path)
    plan = TINY if results.gpu == TINY_NAME else FULL
    results.with_cascade(cascade(results, report, plan)).write(path)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parts, modes = get_args(Part), get_args(Mode)
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="rehearse on a CPU with toy models")
    parser.add_argument("--parts", default=",".join(parts), help="parts to measure; by default %(default)s")
    parser.add_argument("--modes", default=",".join(modes), help="modes of stage 1; by default %(default)s")
    parser.add_argument("--out", type=Path, help="folder for the results; benchmarks/results, or build/gpu with --tiny")
    parser.add_argument(
        "--scenes", type=Path, default=OUT / "scenes.json", help="evaluation report with the exit mix for the estimate"
    )
    parser.add_argument("--plot", type=Path, metavar="JSON", help="only plot this file")
    parser.add_argument("--cascade", type=Path, metavar="JSON", help="only recompute the estimate in this file")
    args = parser.parse_args(arguments)
    for name, known in (("parts", parts), ("modes", modes)):
        setattr(args, name, tuple(getattr(args, name).split(",")))
        for value in getattr(args, name):
            if value not in known:
                parser.error(f"--{name}: {value!r} is not one of {', '.join(known)}")
    return args


def main(arguments: list[str] | None = None) -> int:
    """Measure. Returns 0 if all succeeded, 1 if something failed, as recorded in the file."""
    args = _options(arguments)
    if args.cascade or args.plot:
        if args.cascade:
            recompute(args.cascade, args.scenes)
        draw_plot(args.cascade or args.plot)
        return 0
    try:
        machine = Machine.here(args.tiny)
        path = (args.out or (ROOT / "build/gpu" if args.tiny else OUT)) / file_name(machine.gpu)
        command = " ".join(["python -m benchmarks.gpu", *(sys.argv[1:] if arguments is None else arguments)])
        session = Session(machine, TINY if args.tiny else FULL, path, command)
    except (RuntimeError, ValueError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    modes = args.modes
    if "tensorrt" in modes and find_spec("tensorrt") is None:
        modes = tuple(mode for mode in modes if mode != "tensorrt")
        session.note("tensorrt: not installed")
    jobs = {"florence": florence.jobs, "qwen": qwen.jobs, "molmo": molmo.jobs,
          "stage1": partial(backbone.jobs, modes=modes)}  # fmt: skip
    for part in (p for p in get_args(Part) if p in args.parts and p != "cascade"):
        session.measure(part, jobs[part](machine, session.plan))
    if "cascade" in args.parts:
        session.estimate(args.scenes)
    draw_plot(path)
    print(f"written to {path}, {session.failed} failed")
    return 1 if session.failed else 0


if __name__ == "__main__":
    sys.exit(main())
