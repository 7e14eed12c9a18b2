"""The results of a GPU and their JSON file: one file per GPU, one row per case."""

import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

Part = Literal["stage1", "florence", "qwen", "molmo", "cascade"]
Mode = Literal["eager", "compiled", "graphs", "tensorrt"]


@dataclass(frozen=True, slots=True)
class Case:
    """The case that was timed; identifies a row in the file."""

    part: Part
    model: str
    #: `forward`, `prefill + 1 token` or `prefill + tokens` (prefill is the encoder of Florence-2).
    operation: str
    batch: int
    #: Of the square image or frame, in pixels.
    side: int
    #: Eager, compiled (torch.compile), graphs (torch.compile with CUDA graphs) or tensorrt.
    mode: Mode = "eager"
    #: Of a clip; 1 for an image.
    frames: int = 1
    prompt_tokens: int = 0
    new_tokens: int = 0

    def __str__(self) -> str:
        result = f"{self.model} {self.operation}, {self.mode}, batch {self.batch}, {self.side} px"
        return result + (f", {self.new_tokens} tokens" if self.new_tokens > 1 else "")


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of a call with its inputs on the GPU, until the GPU has finished."""

    #: The first call, including compilation.
    first_s: float
    repeats: int
    median_ms: float
    p90_ms: float


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of a case."""

    case: Case
    timing: Timing
    #: Items per second at the median, with sequential calls.
    per_s: float
    #: Compute per item. A multiply-add counts as 2, as in torch.utils.flop_counter; causal attention counts in full.
    gflop: float
    tflops: float
    #: Fraction of the peak throughput measured in the same run.
    peak_share: float
    #: Peak of allocated memory.
    memory_gib: float
    #: Index into the runs.
    run: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that could not be measured, or a whole part."""

    part: Part
    error: str
    run: int
    case: Case | None = None


@dataclass(frozen=True, slots=True)
class Peak:
    """Measured peak throughput: the best of several products of two square matrices."""

    side: int
    tflops: float


@dataclass(frozen=True, slots=True)
class Run:
    """One command."""

    date: str
    command: str
    driver: str
    torch: str
    cuda: str
    transformers: str
    dtype: str
    peak: Peak
    #: Skipped measurements, with reasons.
    notes: tuple[str, ...] = ()
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Spread:
    """Latency percentiles over all items."""

    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """Latency of a still or a clip without queueing, from the medians of the stages it visits."""

    #: Share of items that exit at each stage, in the policy's order.
    exit_mix: dict[str, float]
    stage_ms: dict[str, float]
    #: If every item runs each stage up to its exit.
    upper: Spread
    #: If an item runs a conditional stage only when it exits there.
    lower: Spread
    #: With the share of items that visited the conditional stage, derived from the report's mean compute; None if that
    #: is inconclusive.
    mean_ms: float | None
    #: The stage that would run on every item without a cascade.
    single_stage: str
    #: Its latency.
    single_stage_ms: float


@dataclass(frozen=True, slots=True)
class Cascade:
    """The estimate for the cascade: computed, not measured."""

    method: str
    report: str
    policy_version: str
    seed: int | None
    #: The row from which each stage's latency was taken.
    stages: dict[str, str]
    photo: Estimate
    clip: Estimate


@dataclass(frozen=True, slots=True)
class Results:
    """All results of a GPU."""

    gpu: str
    runs: tuple[Run, ...] = ()
    rows: tuple[Row, ...] = ()
    failures: tuple[Failure, ...] = ()
    cascade: Cascade | None = field(default=None)

    def with_row(self, row: Row) -> "Results":
        """Return the results with this row in place of an earlier one of the same case."""
        return replace(
            self,
            rows=(*(r for r in self.rows if r.case != row.case), row),
            failures=tuple(f for f in self.failures if f.case != row.case or f.case is None),
        )

    def with_failure(self, failure: Failure) -> "Results":
        """Return the results with this failure. An earlier measurement of the case is kept."""
        kept = [f for f in self.failures if (f.part, f.case) != (failure.part, failure.case)]
        return replace(self, failures=(*kept, failure))

    def with_cascade(self, cascade: Cascade) -> "Results":
        """Return the results with this estimate in place of an earlier one."""
        return replace(self, cascade=cascade).without_failure("cascade")

    def without_failure(self, part: Part) -> "Results":
        """Return the results without the failure of a whole part."""
        return replace(self, failures=tuple(f for f in self.failures if f.part != part or f.case is not None))

    def find(self, part: Part, **wanted: object) -> Row | None:
        """Return the first row of the part whose case has these fields."""
        for row in self.rows:
            case = asdict(row.case)
            if row.case.part == part and all(case[name] == value for name, value in wanted.items()):
                return row
        return None

    def write(self, path: Path) -> None:
        """Write the results as JSON, atomically."""
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


def file_name(gpu: str) -> str:
    """Return the file name for a GPU, such as gpu-nvidia-h200.json for `NVIDIA H200`."""
    return f"gpu-{re.sub('[^a-z0-9]+', '-', gpu.lower()).strip('-')}.json"


def _results(raw: dict[str, Any]) -> Results:
    return Results(
        gpu=raw["gpu"],
        runs=tuple(Run(**{**r, "peak": Peak(**r["peak"]), "notes": tuple(r["notes"])}) for r in raw["runs"]),
        rows=tuple(Row(**{**r, "case": Case(**r["case"]), "timing": Timing(**r["timing"])}) for r in raw["rows"]),
        failures=tuple(Failure(**{**f, "case": f["case"] and Case(**f["case"])}) for f in raw["failures"]),
        cascade=raw["cascade"] and _cascade(raw["cascade"]),
    )


def _cascade(raw: dict[str, Any]) -> Cascade:
    return Cascade(**{**raw, **{kind: _estimate(raw[kind]) for kind in ("photo", "clip")}})


def _estimate(raw: dict[str, Any]) -> Estimate:
    return Estimate(**{**raw, **{name: Spread(**raw[name]) for name in ("upper", "lower")}})
