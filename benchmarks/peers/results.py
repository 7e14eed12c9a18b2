"""What is kept of a server here."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.peers.bare import Pace
from benchmarks.peers.load import Point


@dataclass(frozen=True, slots=True)
class Row:
    """A server over a model with photos of a size.

    repeats: answers a second while saturated. bare: of the loop, right before and right after the server ran. of_bare:
    the median of the first over the mean of the second. cpu_ms: of all its processes, an answer. memory_mib: of them
    all. refused: requests that got no whole answer, while saturated; clients then rest, so such a row says too little.
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

    kept: the highest rate offered up to which 99 % of what came was answered in time at every rate. goodput: of
    overload, answers in time a second, over the saturated rate.
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

    environment: see `Environment`. threads: images a second of the bare loop by its threads. failed: servers that did
    not run, and why. pins: what was installed for each beside what this project locks.
    """

    model: str
    environment: dict[str, Any]
    threads: dict[int, float]
    rows: list[Row] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    pins: dict[str, list[str]] = field(default_factory=dict)


def joined(path: Path, run: Run, models: Sequence[str]) -> list[Run]:
    """Return this one, and those that a file has of other models, in the order of the models."""
    old = TypeAdapter(list[Run]).validate_python(json.loads(path.read_text())["runs"]) if path.is_file() else []
    return sorted([run, *(each for each in old if each.model != run.model)], key=lambda each: models.index(each.model))
