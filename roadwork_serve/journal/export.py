"""Answers as a table: a row each, in CSV or Parquet."""

import csv
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from roadwork_serve.atomic_write import replace_file
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.profiles.profile import STAGES
from roadwork_serve.schema import Verdict

_BATCH = 1000
COLUMNS: dict[str, type] = {
    "id": str,
    "at": datetime,
    "request_id": str,
    "media": str,
    "label": str,
    "probability": float,
    "exit_stage": str,
    "exit_reason": str,
    "degraded": bool,
    "policy": str,
    "profile": str,
    "arm": str,
    "origin": str,
    "caller": str,
    "key": str,
    "sha256": str,
    "size": int,
    "elapsed_ms": float,
    "audit": float,
    **{f"p_{stage}": float for stage in STAGES},
    "mark": str,
    "marked_by": str,
    "note": str,
}


def verdict_columns(verdict: Verdict) -> dict[str, Any]:
    """What stands of a verdict itself in every table."""
    return {
        "media": verdict.media,
        "label": verdict.label,
        "probability": verdict.probability,
        "exit_stage": verdict.exit.stage,
        "exit_reason": verdict.exit.reason,
        "degraded": verdict.degraded,
        "policy": verdict.policy_version,
        "profile": verdict.profile,
        "elapsed_ms": verdict.elapsed_ms,
    }


def export_row(case: JournalRow) -> dict[str, Any]:
    """Plain values by column; what the stages said of it, for the answer or beside it, is their own probability."""
    entry, verdict, mark = case.entry, case.entry.verdict, case.mark
    said = {stage: case.report(stage) for stage in STAGES}
    return {
        "id": entry.id,
        "at": datetime.fromtimestamp(entry.at_s, UTC),
        "request_id": verdict.request_id,
        **verdict_columns(verdict),
        "arm": verdict.arm,
        "origin": entry.origin,
        "caller": entry.caller,
        "key": entry.key,
        "sha256": entry.sha256,
        "size": entry.size,
        "audit": entry.audit,
        **{f"p_{stage}": None if report is None else report.probability for stage, report in said.items()},
        "mark": None if mark is None else mark.label or "unclear",
        "marked_by": None if mark is None else mark.by,
        "note": None if mark is None else mark.note,
    }


def write_csv(path: Path, cases: Iterable[JournalRow]) -> int:
    """A line each, and one with the names. Returns how many. What a spreadsheet would run begins with an apostrophe."""
    count = 0
    with replace_file(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for case in cases:
            writer.writerow({name: _harmless(value) for name, value in export_row(case).items()})
            count += 1
    return count


def write_parquet(path: Path, cases: Iterable[JournalRow]) -> int:
    """One file, written a thousand rows at a time. Returns how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        str: pa.string(),
        float: pa.float64(),
        bool: pa.bool_(),
        int: pa.int64(),
        datetime: pa.timestamp("ms", "UTC"),
    }
    schema = pa.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    count, left = 0, iter(cases)
    with replace_file(path) as draft, pq.ParquetWriter(draft, schema) as writer:
        while batch := [export_row(case) for case in islice(left, _BATCH)]:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def _harmless(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
