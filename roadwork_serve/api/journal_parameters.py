"""Parameters that select journal entries."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import Query
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from roadwork_serve.journal.filter import Filter
from roadwork_serve.profiles.profile import StageName
from roadwork_serve.schema import Label, MediaKind

Sort = Literal["newest", "informativeness"]


def _time(value: object) -> object:
    """Return the time that a text in ISO 8601 names, in UTC if it names no zone."""
    if not isinstance(value, str):
        return value
    try:
        time = datetime.fromisoformat(value)
        return time if time.tzinfo else time.replace(tzinfo=UTC)
    except ValueError:
        text = "Input should be a time in ISO 8601, such as 2026-11-23T08:00Z; in a query, write + as %2B"
        raise PydanticCustomError("time", text) from None


Time = Annotated[datetime, BeforeValidator(_time)]


def journal_filter(
    label: Annotated[Label | None, Query(description="Only entries with this predicted label.")] = None,
    exit_stage: Annotated[StageName | None, Query(description="Only entries that exited at this stage.")] = None,
    media: Annotated[MediaKind | None, Query(description="Only photos, or only clips.")] = None,
    disagreement: Annotated[
        bool | None,
        Query(description="Only entries with a stage whose own probability speaks against the label, or only others."),
    ] = None,
    labeled: Annotated[bool | None, Query(description="Only entries that a person labeled, or only others.")] = None,
    since: Annotated[Time | None, Query(description="Only entries from this time on, ISO 8601.")] = None,
    until: Annotated[Time | None, Query(description="Only entries before this time.")] = None,
    filename: Annotated[
        str | None,
        Query(max_length=255, description="Only entries whose file's name contains this text."),
    ] = None,
) -> Filter:
    """Return the filter that a query describes. A dependency of routes."""
    return Filter(
        since_s=None if since is None else since.timestamp(),
        until_s=None if until is None else until.timestamp(),
        label=label,
        exit_stage=exit_stage,
        media=media,
        filename_part=filename or None,
        labeled=labeled,
        disagreement=disagreement,
    )
