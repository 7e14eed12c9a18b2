"""Conversion between records and rows of the tables, as the columns describe it."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from sqlalchemy import Column, Row

from roadwork_serve.journal.record import Annotation, DeferredResult, JournalRow, PredictionRecord
from roadwork_serve.journal.tables import predictions
from roadwork_serve.schema import StageReport, Verdict

REPORTS = TypeAdapter(tuple[StageReport, ...])
#: Columns that copy a value out of the record, by name.
PLAIN_COLUMNS: dict[str, Column[Any]] = {
    column.name: column for column in predictions.columns if "source" in column.info
}
_SOURCES = {name: attrgetter(column.info["source"]) for name, column in PLAIN_COLUMNS.items()}
_FIELDS = [name for name, column in PLAIN_COLUMNS.items() if column.info["source"] == name]


def plain_values(prediction: PredictionRecord) -> dict[str, Any]:
    """Return the values of the plain columns by name."""
    return {name: source(prediction) for name, source in _SOURCES.items()}


def record_values(prediction: PredictionRecord) -> dict[str, Any]:
    """Return the plain fields of a record by name."""
    return {name: getattr(prediction, name) for name in _FIELDS}


def prediction_values(prediction: PredictionRecord) -> dict[str, Any]:
    """Return a row to insert into `predictions`."""
    values, features = plain_values(prediction), prediction.features
    for name, column in PLAIN_COLUMNS.items():
        if column.info["truncated"]:
            values[name] = _fit(values[name], column)
    return values | {
        "frames": None if features is None else len(features),
        "features": None if features is None else np.ascontiguousarray(features, np.float16).tobytes(),
        "verdict": prediction.verdict.model_dump_json(),
    }


def deferred_values(deferred: DeferredResult) -> dict[str, Any]:
    """Return a row to insert into `deferred_results`."""
    if deferred.verdict is None:
        version, body = "", REPORTS.dump_json(deferred.stages).decode()
    else:
        version, body = deferred.verdict.policy_version, deferred.verdict.model_dump_json()
    return {
        "prediction_id": deferred.prediction_id,
        "kind": deferred.kind,
        "policy_version": version,
        "created_at_s": deferred.created_at_s,
        "body": body,
    }


def journal_row(
    row: Row[Any], deferred: Sequence[Row[Any]], annotation: Annotation | None, media_available: bool
) -> JournalRow:
    """Return a row of `predictions` as a record, with the rows of `deferred_results` that belong to it."""
    features = None
    if row.features is not None:
        features = np.frombuffer(row.features, np.float16).reshape(row.frames, -1)
    plain: dict[str, Any] = {name: getattr(row, name) for name in _FIELDS}
    prediction = PredictionRecord(verdict=Verdict.model_validate_json(row.verdict), features=features, **plain)
    audits = [REPORTS.validate_json(each.body) for each in deferred if each.kind == "audit"]
    shadows = tuple(Verdict.model_validate_json(each.body) for each in deferred if each.kind == "shadow")
    return JournalRow(prediction, audits[0] if audits else None, shadows, annotation, media_available)


def _fit(text: str, column: Column[str]) -> str:
    """Return a client's text as the database accepts it: not longer than the column, and valid Unicode without NUL."""
    length = column.type.length  # pyright: ignore[reportAttributeAccessIssue]
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()[:length]
