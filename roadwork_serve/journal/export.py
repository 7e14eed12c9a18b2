"""Predictions as a table, one row each."""

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from roadwork_serve.atomic_write import replace_file
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.journal.rows import PLAIN_COLUMNS, plain_values
from roadwork_serve.profiles.stage_kinds import stage_names
from roadwork_serve.schema import Verdict
from roadwork_serve.table_files import table_writer

_BATCH = 1000
_TIME = "_at_s"  # ends the names of columns in seconds since 1970
_EXPORTED = {
    name: (name.removesuffix("_s"), datetime) if name.endswith(_TIME) else (name, column.type.python_type)
    for name, column in PLAIN_COLUMNS.items()
    if column.info["exported"]
}
#: Columns of an export and their types, without those of the stages. Those of `tables.predictions` come first.
_BEFORE: dict[str, type] = {
    **dict(_EXPORTED.values()),
    "elapsed_ms": float,
}
_AFTER: dict[str, type] = {"human_label": str, "author": str, "note": str}
FIXED_COLUMNS = _BEFORE | _AFTER


def export_columns() -> dict[str, type]:
    """Return the columns of an export and their types, with one for each stage."""
    return _BEFORE | {f"p_{stage}": float for stage in stage_names()} | _AFTER


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
    reports = {stage: row.report(stage) for stage in stage_names()}
    return prediction_columns(row) | {
        "elapsed_ms": row.prediction.verdict.elapsed_ms,
        **{f"p_{stage}": None if report is None else report.probability for stage, report in reports.items()},
        "human_label": None if annotation is None else annotation.label or "unclear",
        "author": None if annotation is None else annotation.author,
        "note": None if annotation is None else annotation.note,
    }


def write_table(path: Path, rows: Iterable[JournalRow]) -> int:
    """Write a table in the format that the name of the file ends in, a thousand rows at a time. Returns their number.

    Raises ConfigError if the disk refuses, or for another ending.
    """
    count, left = 0, iter(rows)
    with replace_file(path) as draft, table_writer(draft, export_columns()) as write:
        while batch := [export_row(row) for row in islice(left, _BATCH)]:
            write(batch)
            count += len(batch)
    return count
