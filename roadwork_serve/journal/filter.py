"""Conditions on the journal's predictions."""

from dataclasses import dataclass, fields

from sqlalchemy import ColumnElement, exists, select

from roadwork_serve.journal.disagreement import StagesDisagree
from roadwork_serve.journal.tables import annotations, deferred_results, predictions
from roadwork_serve.schema import ExitReason, Label, MediaKind


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects predictions. A field that is None selects all; one named like a column selects equal values."""

    #: Seconds since 1970, included.
    since_s: float | None = None
    #: Seconds since 1970, excluded.
    until_s: float | None = None
    label: Label | None = None
    exit_stage: str | None = None
    exit_reason: ExitReason | None = None
    degraded: bool | None = None
    policy_version: str | None = None
    arm: str | None = None
    media: MediaKind | None = None
    caller: str | None = None
    key: str | None = None
    request_id: str | None = None
    sha256: str | None = None
    filename: str | None = None
    #: Part of the file's name; upper and lower case of A to Z are the same.
    filename_part: str | None = None
    min_probability: float | None = None
    max_probability: float | None = None
    #: A person has annotated the item.
    labeled: bool | None = None
    #: An audit ran every stage on the item.
    audited: bool | None = None
    #: A stage's own probability speaks against the label.
    disagreement: bool | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the conditions for a query over `predictions`."""
        columns = predictions.c
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        found = [columns[name] == value for name, value in values.items() if name in columns and value is not None]
        if self.since_s is not None:
            found.append(columns.created_at_s >= self.since_s)
        if self.until_s is not None:
            found.append(columns.created_at_s < self.until_s)
        if self.min_probability is not None:
            found.append(columns.probability >= self.min_probability)
        if self.max_probability is not None:
            found.append(columns.probability <= self.max_probability)
        if self.filename_part:
            part = self.filename_part.replace("\0", "\ufffd")  # as it is stored
            found.append(columns.filename.icontains(part, autoescape=True))
        if self.labeled is not None:
            some = exists(select(annotations.c.id).where(annotations.c.prediction_id == columns.id))
            found.append(some if self.labeled else ~some)
        if self.audited is not None:
            audits = deferred_results.c
            some = exists(select(audits.kind).where(audits.prediction_id == columns.id, audits.kind == "audit"))
            found.append(some if self.audited else ~some)
        if self.disagreement is not None:
            found.append(StagesDisagree() if self.disagreement else ~StagesDisagree())
        return found
