"""The result file of the comparison."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.peers.bare import LoopResult
from benchmarks.peers.load import Point


@dataclass(frozen=True, slots=True)
class Row:
    """A server with a model, at saturation, with photos of one size."""

    server: str
    model: str
    size: str
    start_s: float
    #: Answers per second, by repeat.
    throughputs: list[float]
    #: The bare loop, right before and right after the server ran.
    bare: list[LoopResult]
    #: Median throughput over the mean of the bare loop.
    relative_throughput: float
    #: Processor time of all its processes per answer.
    cpu_ms: float
    #: Of all its processes.
    memory_mib: float
    #: Requests without a complete answer. Clients pause after them, so such a row underestimates the throughput.
    refused: int
    #: Processor time of all its processes per second without requests, after the start; None in earlier results.
    rest_ms_per_s: float | None = None
    #: Processor time per answer beyond that at rest; None in earlier results.
    marginal_cpu_ms: float | None = None
    #: The same in each round; empty in earlier results.
    marginal_cpu_ms_by_round: list[float] = field(default_factory=list)
    #: `cpu_ms` by role of a process, without those that take less than a tenth of a millisecond.
    cpu_ms_by_role: dict[str, float] = field(default_factory=dict)

    def summary(self) -> str:
        """Return a line for the log."""
        return (
            f"{self.model}, {self.size}, {self.server}: {self.relative_throughput} of the bare loop, "
            f"{self.marginal_cpu_ms} ms per answer and {self.rest_ms_per_s} ms per second at rest"
        )


@dataclass(frozen=True, slots=True)
class Curve:
    """A server with a model, with Poisson arrivals at shares of its saturated throughput."""

    server: str
    model: str
    size: str
    #: Median throughput at saturation.
    saturated_per_s: float
    points: list[Point]
    #: Highest offered rate up to which 99 % of the requests were answered in time at every rate.
    sustained_per_s: float | None
    overload: Point
    #: Answers in time per second at overload, relative to the saturated throughput.
    goodput: float
    #: The same in each round; empty in earlier results.
    goodput_by_round: list[float] = field(default_factory=list)

    def summary(self) -> str:
        """Return a line for the log."""
        return f"{self.model}, {self.size}, {self.server}: goodput {self.goodput}"


@dataclass(frozen=True, slots=True)
class Run:
    """All servers with one model."""

    model: str
    #: See `Environment`.
    environment: dict[str, Any]
    #: Images per second of the bare loop by number of threads.
    bare_per_s_by_threads: dict[int, float]
    rows: list[Row] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    #: Servers that failed, with the error.
    failed: list[dict[str, str]] = field(default_factory=list)
    #: Whether the bundled backbone ran in 8 bits where it could; None in earlier results.
    int8: bool | None = None
    #: Packages installed for each server beside those that this project locks.
    pins: dict[str, list[str]] = field(default_factory=dict)


def combine_rows(rows: Sequence[Row]) -> Row:
    """Return one row for the rounds of a server with a model and a size: medians, and all measurements of rates."""

    def median(name: str, digits: int) -> float:
        return round(statistics.median(getattr(row, name) for row in rows), digits)

    margins = [row.marginal_cpu_ms for row in rows if row.marginal_cpu_ms is not None]
    roles = dict.fromkeys(role for row in rows for role in row.cpu_ms_by_role)
    return replace(
        rows[0],
        start_s=median("start_s", 1),
        throughputs=[each for row in rows for each in row.throughputs],
        bare=[each for row in rows for each in row.bare],
        relative_throughput=median("relative_throughput", 3),
        cpu_ms=median("cpu_ms", 1),
        memory_mib=median("memory_mib", 0),
        refused=sum(row.refused for row in rows),
        rest_ms_per_s=median("rest_ms_per_s", 1),
        marginal_cpu_ms=median("marginal_cpu_ms", 2),
        marginal_cpu_ms_by_round=margins,
        cpu_ms_by_role={
            role: round(statistics.median(row.cpu_ms_by_role.get(role, 0.0) for row in rows), 1) for role in roles
        },
    )


def combine_curves(curves: Sequence[Curve]) -> Curve:
    """Return the curve of the round with the median goodput, the lower one of two, with the goodput of all."""
    middle = statistics.median_low(curve.goodput for curve in curves)
    found = next(curve for curve in curves if curve.goodput == middle)
    return replace(found, goodput_by_round=[curve.goodput for curve in curves])


def merge_runs(path: Path, run: Run, models: Sequence[str]) -> list[Run]:
    """Return this run and those of other models in a file, in the order of the models."""
    old = TypeAdapter(list[Run]).validate_python(json.loads(path.read_text())["runs"]) if path.is_file() else []
    return sorted([run, *(each for each in old if each.model != run.model)], key=lambda each: models.index(each.model))
