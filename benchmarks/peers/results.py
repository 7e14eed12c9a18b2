"""The result file of the comparison."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
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


def merge_runs(path: Path, run: Run, models: Sequence[str]) -> list[Run]:
    """Return this run and those of other models in a file, in the order of the models."""
    old = TypeAdapter(list[Run]).validate_python(json.loads(path.read_text())["runs"]) if path.is_file() else []
    return sorted([run, *(each for each in old if each.model != run.model)], key=lambda each: models.index(each.model))
