"""Predictions as a table, one row each, in CSV or Parquet."""

import csv
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from roadwork_serve.atomic_write import replace_file
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.journal.rows import PLAIN_COLUMNS, plain_values
from roadwork_serve.printable import printable_lines
from roadwork_serve.profiles.profile import STAGES
from roadwork_serve.schema import Verdict

_BATCH = 1000
_TIME = "_at_s"  # ends the names of columns in seconds since 1970
_EXPORTED = {
    name: (name.removesuffix("_s"), datetime) if name.endswith(_TIME) else (name, column.type.python_type)
    for name, column in PLAIN_COLUMNS.items()
    if column.info["exported"]
}
#: Columns of an export and their types. Those of `tables.predictions` come first.
COLUMNS: dict[str, type] = {
    **dict(_EXPORTED.values()),
    "elapsed_ms": float,
    **{f"p_{stage}": float for stage in STAGES},
    "human_label": str,
    "author": str,
    "note": str,
}


def verdict_columns(verdict: Verdict) -> dict[str, Any]:
    """Return the values of a verdict that every table of verdicts has."""
    return {
        "media": verdict.media,
        "label": verdict.label,
        "probability": verdict.probability,
        "exit_stage": verdict.exit.stage,
        "exit_reason": verdict.exit.reason,
        "degraded": verdict.degraded,
        "policy_version": verdict.policy_version,
        "profile": verdict.profile,
        "elapsed_ms": verdict.elapsed_ms,
    }


def prediction_columns(row: JournalRow) -> dict[str, Any]:
    """Return the exported columns of `tables.predictions`, times as datetime in UTC."""
    return {
        _EXPORTED[name][0]: datetime.fromtimestamp(value, UTC) if name.endswith(_TIME) else value
        for name, value in plain_values(row.prediction).items()
        if name in _EXPORTED
    }


def export_row(row: JournalRow) -> dict[str, Any]:
    """Return the values by column. `p_STAGE` is the uncalibrated probability of a stage, from an audit if need be."""
    annotation = row.annotation
    reports = {stage: row.report(stage) for stage in STAGES}
    return prediction_columns(row) | {
        "elapsed_ms": row.prediction.verdict.elapsed_ms,
        **{f"p_{stage}": None if report is None else report.probability for stage, report in reports.items()},
        "human_label": None if annotation is None else annotation.label or "unclear",
        "author": None if annotation is None else annotation.author,
        "note": None if annotation is None else annotation.note,
    }


def write_csv(path: Path, rows: Iterable[JournalRow]) -> int:
    """Write a CSV file with a header. Returns the number of rows.

    Text that a spreadsheet would run as a formula gets an apostrophe in front.
    """
    count = 0
    with replace_file(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _escaped(value) for name, value in export_row(row).items()})
            count += 1
    return count


def write_parquet(path: Path, rows: Iterable[JournalRow]) -> int:
    """Write a Parquet file, a thousand rows at a time. Returns the number of rows."""
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
    count, left = 0, iter(rows)
    with replace_file(path) as draft, pq.ParquetWriter(draft, schema) as writer:
        while batch := [export_row(row) for row in islice(left, _BATCH)]:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def without_formula(text: str) -> str:
    """Return a client's text, printable, with an apostrophe in front if a spreadsheet would run it as a formula."""
    safe = printable_lines(text)
    return f"'{safe}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else safe


def _escaped(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    return without_formula(value) if isinstance(value, str) else value
