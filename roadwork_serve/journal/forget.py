"""Deletion from the journal: of media files that are too old, and of entries that a person wants forgotten."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Select, delete, exists, select

from roadwork_serve.journal.filter import Filter
from roadwork_serve.journal.media_files import MediaFiles
from roadwork_serve.journal.tables import annotations, deferred_results, media_files, predictions

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Counts of what was deleted."""

    #: Entries, with their labels, audits and shadow verdicts.
    entries: int
    #: Media files.
    files: int


def forget_files(connection: Connection, media: MediaFiles, digests: Select[tuple[str]]) -> list[Path]:
    """Delete the rows of media files by their digests. Returns the files to remove once that is committed."""
    columns = media_files.c
    found = connection.execute(select(columns.sha256, columns.suffix).where(columns.sha256.in_(digests))).all()
    connection.execute(delete(media_files).where(columns.sha256.in_(digests)))
    return [media.path(sha256, suffix) for sha256, suffix in found]


def expired(before_s: float) -> Select[tuple[str]]:
    """Return a query for the digests of files from before a time, unless a person has labelled their entry."""
    columns = media_files.c
    labeled = exists(
        select(annotations.c.id)
        .join(predictions, predictions.c.id == annotations.c.prediction_id)
        .where(predictions.c.sha256 == columns.sha256)
    )
    return select(columns.sha256).where(columns.created_at_s < before_s, ~labeled)


def forget_entries(
    connection: Connection, media: MediaFiles | None, where: Filter, files_only: bool
) -> tuple[int, list[Path]]:
    """Delete the selected entries, or only their media files.

    The file of a deleted entry goes even if another entry has the same file: its content is what is to be forgotten.

    Returns:
        The number of entries, and the files to remove once that is committed.
    """
    chosen = select(predictions.c.id).where(*where.conditions())
    digests = select(predictions.c.sha256).where(*where.conditions())
    files = [] if media is None else forget_files(connection, media, digests)
    if files_only:
        return 0, files
    ids = connection.execute(chosen).scalars().all()
    for at in range(0, len(ids), _PAGE):
        page = ids[at : at + _PAGE]
        connection.execute(delete(annotations).where(annotations.c.prediction_id.in_(page)))
        connection.execute(delete(deferred_results).where(deferred_results.c.prediction_id.in_(page)))
        connection.execute(delete(predictions).where(predictions.c.id.in_(page)))
    return len(ids), files
