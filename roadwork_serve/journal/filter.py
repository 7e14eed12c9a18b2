"""Which answers are meant."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, exists, select

from roadwork_serve.journal.tables import answers, asides, marks
from roadwork_serve.schema import ExitReason, Label, MediaKind


@dataclass(frozen=True, slots=True)
class Filter:
    """What is None is not asked for. since_s, until_s: seconds since 1970, the latter excluded. low, high: of the
    probability. marked: a person has said something of it. surveyed: every stage has judged it."""

    since_s: float | None = None
    until_s: float | None = None
    label: Label | None = None
    exit_stage: str | None = None
    reason: ExitReason | None = None
    degraded: bool | None = None
    policy: str | None = None
    arm: str | None = None
    media: MediaKind | None = None
    caller: str | None = None
    key: str | None = None
    request_id: str | None = None
    sha256: str | None = None
    low: float | None = None
    high: float | None = None
    marked: bool | None = None
    audited: bool | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """For a query over `answers`."""
        columns = answers.c
        equal = {
            columns.label: self.label,
            columns.exit_stage: self.exit_stage,
            columns.exit_reason: self.reason,
            columns.degraded: self.degraded,
            columns.policy_version: self.policy,
            columns.arm: self.arm,
            columns.media: self.media,
            columns.caller: self.caller,
            columns.key: self.key,
            columns.request_id: self.request_id,
            columns.sha256: self.sha256,
        }
        found = [column == value for column, value in equal.items() if value is not None]
        if self.since_s is not None:
            found.append(columns.at_s >= self.since_s)
        if self.until_s is not None:
            found.append(columns.at_s < self.until_s)
        if self.low is not None:
            found.append(columns.probability >= self.low)
        if self.high is not None:
            found.append(columns.probability <= self.high)
        if self.marked is not None:
            some = exists(select(marks.c.of).where(marks.c.of == columns.id))
            found.append(some if self.marked else ~some)
        if self.audited is not None:
            some = exists(select(asides.c.of).where(asides.c.of == columns.id, asides.c.kind == "audit"))
            found.append(some if self.audited else ~some)
        return found
