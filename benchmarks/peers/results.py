"""What is kept of a server here."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.peers.bare import Pace
from benchmarks.peers.load import Point


@dataclass(frozen=True, slots=True)
class Row:
    """A server over a model with photos of a size.

    repeats: answers a second while saturated. bare: of the loop, right before and right after the server ran. of_bare:
    the median of the first over the mean of the second. cpu_ms: of all its processes, an answer. memory_mib: of them
    all. refused: requests, while saturated; clients that were refused rest, so such a row says too little.
    """

    server: str
    model: str
    size: str
    start_s: float
    repeats: list[float]
    bare: list[Pace]
    of_bare: float
    cpu_ms: float
    memory_mib: float
    refused: int

    def told(self) -> str:
        """In a line."""
        return f"{self.model}, {self.size}, {self.server}: {self.of_bare} of the bare loop"


@dataclass(frozen=True, slots=True)
class Curve:
    """What a server made of arrivals at its own shares of saturated. saturated: answers a second, the median.

    kept: the highest rate offered at which 99 % of what came was answered in time. goodput: of overload, answers in
    time a second, over the saturated rate.
    """

    server: str
    model: str
    size: str
    saturated: float
    points: list[Point]
    kept: float | None
    overload: Point
    goodput: float

    def told(self) -> str:
        """In a line."""
        return f"{self.model}, {self.size}, {self.server}: goodput {self.goodput}"


@dataclass(frozen=True, slots=True)
class Run:
    """All servers over one model, beside each other.

    environment: see `Environment`. threads: images a second of the bare loop by its threads. workers: answers a second
    of every server by its workers, where that was tried. failed: servers that did not run, and why.
    """

    model: str
    environment: dict[str, Any]
    threads: dict[int, float]
    workers: dict[str, dict[int, float]]
    rows: list[Row] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, told: dict[str, Any]) -> Self:
        """From what `asdict` makes of it."""
        rows = [Row(**row | {"bare": [Pace(**pace) for pace in row["bare"]]}) for row in told["rows"]]
        curves = [
            Curve(
                **curve | {"points": [_point(each) for each in curve["points"]], "overload": _point(curve["overload"])}
            )
            for curve in told["curves"]
        ]
        threads = {int(count): per_s for count, per_s in told["threads"].items()}
        workers = {name: {int(count): per_s for count, per_s in by.items()} for name, by in told["workers"].items()}
        return cls(**told | {"threads": threads, "workers": workers, "rows": rows, "curves": curves})


def _point(told: dict[str, Any]) -> Point:
    """Numbers that could not be told are null in a file."""
    return Point(**{name: math.nan if value is None else value for name, value in told.items()})


def joined(path: Path, runs: Sequence[Run], models: Sequence[str]) -> list[Run]:
    """These runs, and those that a file has of other models, in the order of the models."""
    old = [Run.of(told) for told in json.loads(path.read_text()).get("runs", [])] if path.is_file() else []
    new = {run.model for run in runs}
    return sorted([*runs, *(run for run in old if run.model not in new)], key=lambda run: models.index(run.model))
