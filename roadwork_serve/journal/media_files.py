"""The encoded files of predictions, stored by their digest, up to a total size."""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, delete, exists, func, select

from roadwork_serve.atomic_write import replace_file
from roadwork_serve.clip_formats import clip_format
from roadwork_serve.journal.record import PredictionRecord
from roadwork_serve.journal.tables import annotations, media_files, predictions
from roadwork_serve.state_folder import make_folder
from roadwork_serve.still_formats import still_format

_PAGE = 256
_EVICT_TO = 0.95  # of the limit, so that not every commit has to evict
KEEP_FREE = 256 * 2**20  # bytes that files leave on their disk, for verdicts


@dataclass(frozen=True, slots=True)
class MediaFiles:
    """A folder of files, and the table that lists them.

    Above the size limit the least useful files are deleted, the oldest first. Files that people have labelled are never
    deleted, even if they alone exceed the limit.
    """

    folder: Path
    max_bytes: int

    def path(self, sha256: str, suffix: str) -> Path:
        """Return the path of a file."""
        return self.folder / sha256[:2] / f"{sha256}.{suffix}"

    def write(self, prediction: PredictionRecord) -> dict[str, object] | None:
        """Store a prediction's file. Returns its row for the table, None if it has none or no room. Raises OSError."""
        if prediction.media is None:
            return None
        path = self.path(prediction.sha256, suffix := media_suffix(prediction.media))
        if not path.exists():
            make_folder(path.parent)
            if not has_room(path.parent, prediction.size):
                return None
            with replace_file(path, mode=0o600, os_errors=True) as draft:
                draft.write_bytes(prediction.media)
        return {
            "sha256": prediction.sha256,
            "suffix": suffix,
            "size": prediction.size,
            "created_at_s": prediction.created_at_s,
            "usefulness": usefulness(prediction),
        }

    def find(self, sha256: str) -> Path | None:
        """Return the path of a stored file by its digest; None if it is not stored."""
        return next(iter(sorted((self.folder / sha256[:2]).glob(f"{sha256}.*"))), None)

    def read(self, sha256: str) -> bytes | None:
        """Return a file's content; None if it is not stored."""
        if (path := self.find(sha256)) is not None:
            with contextlib.suppress(FileNotFoundError):
                return path.read_bytes()
        return None

    def evict(self, connection: Connection) -> list[Path]:
        """Delete rows of files above the limit. Returns the files to remove once that is committed."""
        columns = media_files.c
        stored = int(connection.execute(select(func.coalesce(func.sum(columns.size), 0))).scalar_one())
        if stored <= self.max_bytes:
            return []
        excess, found = stored - int(_EVICT_TO * self.max_bytes), list[Path]()
        labeled = exists(
            select(annotations.c.id)
            .join(predictions, predictions.c.id == annotations.c.prediction_id)
            .where(predictions.c.sha256 == columns.sha256)
        )
        query = select(columns.sha256, columns.suffix, columns.size).where(~labeled)
        query = query.order_by(columns.usefulness, columns.created_at_s).limit(_PAGE)
        while excess > 0:
            rows = connection.execute(query).all()
            if not rows:
                break
            evicted: list[str] = []
            for sha256, suffix, size in rows:
                if excess > 0:
                    found.append(self.path(sha256, suffix))
                    evicted.append(sha256)
                    excess -= size
            connection.execute(delete(media_files).where(columns.sha256.in_(evicted)))
        return found


def has_room(folder: Path, size: int) -> bool:
    """Return whether a file of this size leaves KEEP_FREE on the disk of a folder. True if that is unknown."""
    try:
        return shutil.disk_usage(folder).free - size >= KEEP_FREE
    except OSError:  # it is missing, and made anew by whoever writes to it
        return True


def usefulness(prediction: PredictionRecord) -> float:
    """Return, from 0 to 1, how much a file is worth storing. A confident exit at one stage is worth least."""
    verdict = prediction.verdict
    uncertainty = 1 - 2 * abs(verdict.probability - 0.5)
    answered = sum(report.outcome == "answered" for report in verdict.stages)
    return (
        0.4 * uncertainty
        + 0.3 * (prediction.audit_rate is not None)
        + 0.2 * (verdict.degraded or verdict.exit.reason in ("deadline", "failed"))
        + 0.1 * (answered > 1)
    )


def greater_of(stored: Any, new: Any) -> ColumnElement[float]:
    """Return the greater of two columns, in SQL that both databases know."""
    return case((stored < new, new), else_=stored)


def media_suffix(data: bytes) -> str:
    """Return the file suffix for encoded media, by its first bytes."""
    if (still := still_format(data)) is not None:
        return still.suffixes[0].removeprefix(".")
    clip = clip_format(data)
    return "mp4" if clip is None else clip.suffixes[0].removeprefix(".")
