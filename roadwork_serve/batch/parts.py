"""A resumable run of batch scoring: results in parts, joined into one table at the end."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from roadwork_serve.atomic_write import replace_file
from roadwork_serve.batch.inputs import InputFile
from roadwork_serve.errors import ConfigError, RoadworkError
from roadwork_serve.journal.export import verdict_columns
from roadwork_serve.profiles.stage_kinds import stage_names
from roadwork_serve.schema import Verdict
from roadwork_serve.table_files import check_ending, table_writer

_PART = pa.schema([("file", pa.string()), ("verdict", pa.string()), ("problem", pa.string())])
_FILES = pa.schema(
    [
        ("name", pa.string()),
        ("path", pa.binary()),  # as the file system has it, which need not be UTF-8
        ("row", pa.int64()),
        ("size", pa.int64()),
        ("problem", pa.string()),
    ]
)
_VERDICTS: dict[str, type] = {
    "file": str,
    "media": str,
    "label": str,
    "probability": float,
    "exit_stage": str,
    "exit_reason": str,
    "degraded": bool,
    "policy_version": str,
    "profile": str,
    "elapsed_ms": float,
}
REJECTS: dict[str, type] = {"file": str, "problem": str, "status": int, "detail": str}
_BATCH_FILES, _BATCH_ROWS = 128, 64
_REASONS = 5
_CODEC = "zstd"


@dataclass(frozen=True, slots=True)
class Scored:
    """The result for one file: a verdict or a problem, never both."""

    name: str
    verdict: Verdict | None = None
    problem: dict[str, Any] | None = None

    @classmethod
    def rejected(cls, name: str, error: RoadworkError) -> "Scored":
        """Return the result for a rejected file."""
        return cls(name, problem={"problem": error.slug, "status": error.status, "detail": str(error)})


class RunSpec(BaseModel):
    """The parameters of a run. A run can resume one with equal parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    match: tuple[str, ...]
    column: str | None
    profile: dict[str, Any]
    policy: dict[str, Any]
    version: str


@dataclass(frozen=True, slots=True)
class BatchTotals:
    """The number of files by result."""

    verdicts: int
    #: Verdicts that are degraded.
    degraded: int
    rejects: int
    #: The first rejected files, each with the reason.
    reasons: tuple[str, ...] = ()


class BatchRun:
    """A run in a folder beside the result: its parameters, the list of files, and a part for each finished batch."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rejects = out.with_name(f"{out.stem}.rejects{out.suffix}")
        self.folder = out.with_name(f"{out.name}.run")
        self._spec, self._listing = self.folder / "run.json", self.folder / "files.parquet"
        self._parts = self.folder / "parts"

    @property
    def started(self) -> bool:
        """True if an earlier run can be resumed."""
        return self._listing.is_file()

    def check(self, spec: RunSpec) -> None:
        """Raise ConfigError if the result exists or has no known format, or a run with other parameters exists."""
        check_ending(self.out)
        if self.out.exists():
            raise ConfigError(f"{self.out} already exists; name another --out, or remove it")
        if not self.started:
            return
        before = json.loads(self._spec.read_text(encoding="utf-8"))
        now = json.loads(spec.model_dump_json())
        if other := [name for name in now if now[name] != before.get(name)]:
            raise ConfigError(
                f"{self.folder} holds a run with a different {' and '.join(other)}: finish that run with its own "
                "options, or remove the folder"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run. Raises ConfigError if another process has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(f"another run is writing {self.out}; wait for it, or name another --out") from None
        try:
            yield
        finally:
            lock.release()

    def start(self, spec: RunSpec, files: Sequence[InputFile]) -> None:
        """Store the parameters and the list of files."""
        self._parts.mkdir(parents=True, exist_ok=True)
        self._spec.write_text(spec.model_dump_json(indent=1), encoding="utf-8")
        columns = {name: [getattr(file, name) for file in files] for name in _FILES.names}
        columns["path"] = [path.encode("utf-8", "surrogateescape") for path in columns["path"]]
        with replace_file(self._listing) as draft, draft.open("wb") as file:
            pq.write_table(pa.table(columns, schema=_FILES), file, compression=_CODEC)

    def remaining(self) -> tuple[int, list[tuple[int, list[InputFile]]]]:
        """Return the number of files, and the batches that are not done, each with its number."""
        rows = _table_rows(self._listing)
        files = [InputFile(**row | {"path": row["path"].decode("utf-8", "surrogateescape")}) for row in rows]
        batches = list(_batches(files))
        return len(files), [(number, batch) for number, batch in enumerate(batches) if not self._part(number).is_file()]

    def save_part(self, number: int, part: bytes) -> None:
        """Store the part of a finished batch, atomically."""
        with replace_file(self._part(number)) as draft:
            draft.write_bytes(part)

    def finish(self) -> BatchTotals:
        """Join the parts in the order of the files, and remove them."""
        verdicts = degraded = rejects = 0
        reasons: list[str] = []
        with (
            replace_file(self.out) as verdict_file,  # renamed last: if it exists, the run is complete
            replace_file(self.rejects) as reject_file,
            table_writer(reject_file, REJECTS) as write_rejects,
            table_writer(verdict_file, verdict_table_columns()) as write_verdicts,
        ):
            for path in sorted(self._parts.glob("*.parquet")):
                scored = _table_rows(path)
                rows = [_row(each["file"], each["verdict"]) for each in scored if each["verdict"] is not None]
                wrong = [{"file": each["file"]} | json.loads(each["problem"]) for each in scored if each["problem"]]
                write_verdicts(rows)
                write_rejects(wrong)
                reasons += [f"{each['file']}: {each['detail']}" for each in wrong[: _REASONS - len(reasons)]]
                verdicts, rejects = verdicts + len(rows), rejects + len(wrong)
                degraded += sum(row["degraded"] for row in rows)
        shutil.rmtree(self.folder)
        return BatchTotals(verdicts, degraded, rejects, tuple(reasons))

    def _part(self, number: int) -> Path:
        return self._parts / f"{number:08}.parquet"


def encode_part(scored: Sequence[Scored]) -> bytes:
    """Return the results of a batch as a small Parquet file."""
    columns = {
        "file": [each.name for each in scored],
        "verdict": [each.verdict.model_dump_json(exclude_defaults=True) if each.verdict else None for each in scored],
        "problem": [json.dumps(each.problem) if each.problem else None for each in scored],
    }
    into = BytesIO()
    pq.write_table(pa.table(columns, schema=_PART), into, compression=_CODEC)
    return into.getvalue()


def _table_rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(BytesIO(path.read_bytes())).to_pylist()


def _batches(files: Sequence[InputFile]) -> Iterator[list[InputFile]]:
    """Yield batches in order. Rows of different Parquet files are never in one batch."""
    for row, group in groupby(files, key=lambda file: file.path if file.row is not None else None):
        together, size = list(group), _BATCH_FILES if row is None else _BATCH_ROWS
        yield from (together[start : start + size] for start in range(0, len(together), size))


def verdict_table_columns() -> dict[str, type]:
    """Return the columns of a table of verdicts and their types, with one for each stage."""
    return _VERDICTS | {f"p_{stage}": float for stage in stage_names()} | {"verdict": str}


def _row(name: str, encoded: str) -> dict[str, Any]:
    verdict = Verdict.model_validate_json(encoded)
    probabilities = {report.stage: report.probability for report in verdict.stages}
    return {
        "file": name,
        **verdict_columns(verdict),
        **{f"p_{stage}": probabilities.get(stage) for stage in stage_names()},
        "verdict": encoded,
    }
