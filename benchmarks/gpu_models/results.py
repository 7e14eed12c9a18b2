"""What a run on a card found, and the JSON file it is kept in: one file a card, one row a case."""

import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

Part = Literal["stage1", "florence", "qwen", "molmo", "cascade"]
Mode = Literal["eager", "compiled", "graphs", "tensorrt"]


@dataclass(frozen=True, slots=True)
class Case:
    """What was timed; a row's name in the file.

    what: `forward`, `prefill + 1 token` or `prefill + tokens` (of Florence-2, its encoder).
    mode: eager, compiled (torch.compile), graphs (torch.compile with CUDA graphs) or tensorrt.
    side: of the square image or frame, pixels. frames: of a clip, 1 of an image.
    """

    part: Part
    model: str
    what: str
    batch: int
    side: int
    mode: Mode = "eager"
    frames: int = 1
    prompt_tokens: int = 0
    new_tokens: int = 0

    def __str__(self) -> str:
        told = f"{self.model} {self.what}, {self.mode}, batch {self.batch}, {self.side} px"
        return told + (f", {self.new_tokens} tokens" if self.new_tokens > 1 else "")


@dataclass(frozen=True, slots=True)
class Timing:
    """Of a call with its inputs on the card, until the card is done. first_s: the first call, with any compiling."""

    first_s: float
    repeats: int
    median_ms: float
    p90_ms: float


@dataclass(frozen=True, slots=True)
class Row:
    """per_s: items a second at the median, one call after the other.

    gflop: of one item, a multiply-add counted as 2, as torch.utils.flop_counter counts (causal attention in full).
    peak_share: of the matrix product measured by the same run. memory_gib: most that was allocated meanwhile.
    run: index into the runs.
    """

    case: Case
    timing: Timing
    per_s: float
    gflop: float
    tflops: float
    peak_share: float
    memory_gib: float
    run: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A case, or with none a whole part, that could not be measured."""

    part: Part
    error: str
    run: int
    case: Case | None = None


@dataclass(frozen=True, slots=True)
class Peak:
    """The best of several products of two square matrices of this side; no data sheet."""

    side: int
    tflops: float


@dataclass(frozen=True, slots=True)
class Run:
    """One command. notes: what was left out, and why."""

    date: str
    command: str
    driver: str
    torch: str
    cuda: str
    transformers: str
    dtype: str
    peak: Peak
    notes: tuple[str, ...] = ()
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Spread:
    """Of the latencies of all items, in milliseconds."""

    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """Latency of a still or a clip with no queue, from the medians of the stages it visits.

    exit_mix: share of the items that leave at a stage, in the policy's order.
    most: an item pays for every stage up to its exit; least: it pays for a conditional stage only if it leaves there.
    mean_ms: with the share of items that visited the conditional stage, told from the report's mean compute; None
        where that does not tell.
    alone, alone_ms: the stage that would see every item if there were no cascade, and its latency.
    """

    exit_mix: dict[str, float]
    stage_ms: dict[str, float]
    most: Spread
    least: Spread
    mean_ms: float | None
    alone: str
    alone_ms: float


@dataclass(frozen=True, slots=True)
class Cascade:
    """Computed, not measured. stages: the row a stage's latency was taken from."""

    how: str
    report: str
    policy_version: str
    seed: int | None
    stages: dict[str, str]
    photo: Estimate
    clip: Estimate


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that is known of a card."""

    card: str
    runs: tuple[Run, ...] = ()
    rows: tuple[Row, ...] = ()
    failures: tuple[Failure, ...] = ()
    cascade: Cascade | None = field(default=None)

    def with_row(self, row: Row) -> "Results":
        """Return the row in place of what an earlier run said of the same case."""
        return replace(
            self,
            rows=(*(r for r in self.rows if r.case != row.case), row),
            failures=tuple(f for f in self.failures if f.case != row.case or f.case is None),
        )

    def with_failure(self, failure: Failure) -> "Results":
        """Return the failure noted. What an earlier run measured of the case stays."""
        kept = [f for f in self.failures if (f.part, f.case) != (failure.part, failure.case)]
        return replace(self, failures=(*kept, failure))

    def with_cascade(self, cascade: Cascade) -> "Results":
        """Return the estimate in place of an earlier one."""
        return replace(self, cascade=cascade).without_failure("cascade")

    def without_failure(self, part: Part) -> "Results":
        """Without the note that the part as a whole failed."""
        return replace(self, failures=tuple(f for f in self.failures if f.part != part or f.case is not None))

    def find(self, part: Part, **wanted: object) -> Row | None:
        """Return the first row of the part whose case has these fields."""
        for row in self.rows:
            case = asdict(row.case)
            if row.case.part == part and all(case[name] == value for name, value in wanted.items()):
                return row
        return None

    def write(self, path: Path) -> None:
        """As JSON. A reader, or a command that is cut short, finds the old file or the new one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".part")
        new.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        new.replace(path)


def read(path: Path) -> Results:
    """Return the results in a file that `Results.write` wrote. Raises ValueError for another file."""
    try:
        return _results(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, KeyError, ValueError, AttributeError) as e:
        raise ValueError(
            f"{path} was not written by this version of the benchmark ({e!r}): move it away, or write to "
            "another folder with --out"
        ) from e


def file_name(card: str) -> str:
    """gpu-nvidia-h200.json for `NVIDIA H200`."""
    return f"gpu-{re.sub('[^a-z0-9]+', '-', card.lower()).strip('-')}.json"


def _results(raw: dict[str, Any]) -> Results:
    return Results(
        card=raw["card"],
        runs=tuple(Run(**{**r, "peak": Peak(**r["peak"]), "notes": tuple(r["notes"])}) for r in raw["runs"]),
        rows=tuple(Row(**{**r, "case": Case(**r["case"]), "timing": Timing(**r["timing"])}) for r in raw["rows"]),
        failures=tuple(Failure(**{**f, "case": f["case"] and Case(**f["case"])}) for f in raw["failures"]),
        cascade=raw["cascade"] and _cascade(raw["cascade"]),
    )


def _cascade(raw: dict[str, Any]) -> Cascade:
    return Cascade(**{**raw, **{kind: _estimate(raw[kind]) for kind in ("photo", "clip")}})


def _estimate(raw: dict[str, Any]) -> Estimate:
    return Estimate(**{**raw, **{name: Spread(**raw[name]) for name in ("most", "least")}})
