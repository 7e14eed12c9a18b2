"""What has been scored, part by part, until all of it is one table: a run that is broken off goes on from here."""

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
from roadwork_serve.profiles.profile import STAGES
from roadwork_serve.schema import Verdict

_PART = pa.schema([("file", pa.string()), ("verdict", pa.string()), ("problem", pa.string())])
_FILES = pa.schema([("name", pa.string()), ("path", pa.string()), ("row", pa.int64()), ("size", pa.int64())])
VERDICTS = pa.schema(
    [
        ("file", pa.string()),
        ("media", pa.string()),
        ("label", pa.string()),
        ("probability", pa.float64()),
        ("exit_stage", pa.string()),
        ("exit_reason", pa.string()),
        ("degraded", pa.bool_()),
        ("policy", pa.string()),
        ("profile", pa.string()),
        ("elapsed_ms", pa.float64()),
        *((f"p_{stage}", pa.float64()) for stage in STAGES),
        ("verdict", pa.string()),
    ]
)
REJECTS = pa.schema([("file", pa.string()), ("problem", pa.string()), ("status", pa.int32()), ("detail", pa.string())])
_LOT, _LOT_OF_ROWS = 128, 64
_CODEC = "zstd"


@dataclass(frozen=True, slots=True)
class Scored:
    """A file's verdict, or why there is none: never both."""

    name: str
    verdict: Verdict | None = None
    problem: dict[str, Any] | None = None

    @classmethod
    def refused(cls, name: str, error: RoadworkError) -> "Scored":
        """A file for the table of rejects."""
        return cls(name, problem={"problem": error.slug, "status": error.status, "detail": str(error)})


class RunSpec(BaseModel):
    """What makes two runs the same: one may go on where the other was broken off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    match: tuple[str, ...]
    column: str | None
    profile: dict[str, Any]
    policy: dict[str, Any]
    version: str


@dataclass(frozen=True, slots=True)
class BatchTotals:
    """Files with a verdict, those of them that are degraded, and files without one."""

    verdicts: int
    degraded: int
    rejects: int


class BatchRun:
    """A folder beside the result: the recipe, the listing, and a file for each lot that is done."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rejects = out.with_name(f"{out.stem}.rejects{out.suffix}")
        self.folder = out.with_name(f"{out.name}.run")
        self._recipe, self._listing = self.folder / "recipe.json", self.folder / "files.parquet"
        self._parts = self.folder / "parts"

    @property
    def begun(self) -> bool:
        """Whether there is something to go on with."""
        return self._listing.is_file()

    def check(self, recipe: RunSpec) -> None:
        """Raises ConfigError where the result is there already, or half a result of another recipe."""
        if self.out.exists():
            raise ConfigError(f"{self.out} is there already; name another --out, or remove it")
        if not self.begun:
            return
        before = json.loads(self._recipe.read_text(encoding="utf-8"))
        now = json.loads(recipe.model_dump_json())
        if other := [name for name in now if now[name] != before.get(name)]:
            raise ConfigError(
                f"{self.folder} holds a run with another {' and '.join(other)}: finish that one as it was begun, "
                "or remove the folder"
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Raises ConfigError where another process is at it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(f"another run is at {self.out}; wait for it, or name another --out") from None
        try:
            yield
        finally:
            lock.release()

    def begin(self, recipe: RunSpec, files: Sequence[InputFile]) -> None:
        """Keep what is to be done; nothing of it is read again."""
        self._parts.mkdir(parents=True, exist_ok=True)
        self._recipe.write_text(recipe.model_dump_json(indent=1), encoding="utf-8")
        columns = {name: [getattr(file, name) for file in files] for name in _FILES.names}
        with replace_file(self._listing) as draft:
            pq.write_table(pa.table(columns, schema=_FILES), draft, compression=_CODEC)

    def left(self) -> tuple[int, list[tuple[int, list[InputFile]]]]:
        """How many files there are, and the lots that are not done, each with its number."""
        files = [InputFile(**row) for row in pq.read_table(self._listing).to_pylist()]
        lots = list(_lots(files))
        return len(files), [(number, lot) for number, lot in enumerate(lots) if not self._part(number).is_file()]

    def keep(self, number: int, part: bytes) -> None:
        """A lot that is done; all of it, or nothing."""
        with replace_file(self._part(number)) as draft:
            draft.write_bytes(part)

    def finish(self) -> BatchTotals:
        """Put the parts together, in the order of the listing, and remove them."""
        verdicts = degraded = rejects = 0
        with (
            replace_file(self.out) as good,  # the last to be named: with it all is there
            replace_file(self.rejects) as bad,
            pq.ParquetWriter(bad, REJECTS, compression=_CODEC) as refused,
            pq.ParquetWriter(good, VERDICTS, compression=_CODEC) as answered,
        ):
            for path in sorted(self._parts.glob("*.parquet")):
                scored = pq.read_table(path).to_pylist()
                rows = [_row(each["file"], each["verdict"]) for each in scored if each["verdict"] is not None]
                wrong = [{"file": each["file"]} | json.loads(each["problem"]) for each in scored if each["problem"]]
                answered.write_table(pa.Table.from_pylist(rows, schema=VERDICTS))
                refused.write_table(pa.Table.from_pylist(wrong, schema=REJECTS))
                verdicts, rejects = verdicts + len(rows), rejects + len(wrong)
                degraded += sum(row["degraded"] for row in rows)
        shutil.rmtree(self.folder)
        return BatchTotals(verdicts, degraded, rejects)

    def _part(self, number: int) -> Path:
        return self._parts / f"{number:08}.parquet"


def encode_part(scored: Sequence[Scored]) -> bytes:
    """A lot that is done, as a small Parquet file."""
    columns = {
        "file": [each.name for each in scored],
        "verdict": [each.verdict.model_dump_json(exclude_defaults=True) if each.verdict else None for each in scored],
        "problem": [json.dumps(each.problem) if each.problem else None for each in scored],
    }
    into = BytesIO()
    pq.write_table(pa.table(columns, schema=_PART), into, compression=_CODEC)
    return into.getvalue()


def _lots(files: Sequence[InputFile]) -> Iterator[list[InputFile]]:
    """In order; rows of different Parquet files are never in one."""
    for row, group in groupby(files, key=lambda file: file.path if file.row is not None else None):
        together, size = list(group), _LOT if row is None else _LOT_OF_ROWS
        yield from (together[start : start + size] for start in range(0, len(together), size))


def _row(name: str, told: str) -> dict[str, Any]:
    verdict = Verdict.model_validate_json(told)
    said = {report.stage: report.probability for report in verdict.stages}
    return {
        "file": name,
        **verdict_columns(verdict),
        **{f"p_{stage}": said.get(stage) for stage in STAGES},
        "verdict": told,
    }
