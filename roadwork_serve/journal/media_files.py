"""The encoded files of answers, by what they contain, up to a size."""

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, case, delete, exists, func, select

from roadwork_serve.journal.record import PredictionRecord
from roadwork_serve.journal.tables import answers, files, marks

_MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"\x1a\x45\xdf\xa3": "webm"}
_AT_A_TIME = 256
_LEAVE = 0.95  # of the cap, once it has been passed: so that not every commit has to make room


@dataclass(frozen=True, slots=True)
class MediaFiles:
    """A folder, and the table that says what is in it. cap_bytes: beyond it the least useful goes, the oldest first.

    What people have labelled never goes, even if that alone is more.
    """

    folder: Path
    cap_bytes: int

    def path(self, sha256: str, suffix: str) -> Path:
        """Where a file lies."""
        return self.folder / sha256[:2] / f"{sha256}.{suffix}"

    def put(self, entry: PredictionRecord) -> dict[str, object] | None:
        """Write an entry's file, whole or not at all. Returns its row for the table, None where it has none."""
        if entry.media is None:
            return None
        path = self.path(entry.sha256, suffix := _suffix(entry.media))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, draft = tempfile.mkstemp(dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(entry.media)
                os.replace(draft, path)
            except OSError:
                Path(draft).unlink(missing_ok=True)
                raise
        return {
            "sha256": entry.sha256,
            "suffix": suffix,
            "size": entry.size,
            "at_s": entry.at_s,
            "useful": usefulness(entry),
        }

    def get(self, sha256: str) -> bytes | None:
        """A file, None where it is not kept."""
        for path in sorted((self.folder / sha256[:2]).glob(f"{sha256}.*")):
            with contextlib.suppress(FileNotFoundError):
                return path.read_bytes()
        return None

    def make_room(self, connection: Connection) -> list[Path]:
        """Forget what is too much. Returns the files to remove once that is committed."""
        held = int(connection.execute(select(func.coalesce(func.sum(files.c.size), 0))).scalar_one())
        if held <= self.cap_bytes:
            return []
        excess, found = held - int(_LEAVE * self.cap_bytes), list[Path]()
        labelled = exists(
            select(marks.c.of).join(answers, answers.c.id == marks.c.of).where(answers.c.sha256 == files.c.sha256)
        )
        columns = files.c.sha256, files.c.suffix, files.c.size
        order = files.c.useful, files.c.at_s
        while excess > 0:
            rows = connection.execute(select(*columns).where(~labelled).order_by(*order).limit(_AT_A_TIME)).all()
            if not rows:
                break
            gone: list[str] = []
            for sha256, suffix, size in rows:
                if excess > 0:
                    found.append(self.path(sha256, suffix))
                    gone.append(sha256)
                    excess -= size
            connection.execute(delete(files).where(files.c.sha256.in_(gone)))
        return found


def usefulness(entry: PredictionRecord) -> float:
    """0 to 1: of two files, which to keep. What was surely answered by one stage alone teaches least."""
    verdict = entry.verdict
    doubt = 1 - 2 * abs(verdict.probability - 0.5)
    asked = sum(report.outcome == "answered" for report in verdict.stages)
    return (
        0.4 * doubt
        + 0.3 * (entry.audit is not None)
        + 0.2 * (verdict.degraded or verdict.exit.reason in ("deadline", "failed"))
        + 0.1 * (asked > 1)
    )


def is_more_useful(held: object, new: object) -> object:
    """For the update of a row that is there: the greater of the two, in SQL that both databases know."""
    return case((held < new, new), else_=held)  # type: ignore[operator]


def _suffix(data: bytes) -> str:
    return next((suffix for magic, suffix in _MAGIC.items() if data.startswith(magic)), "mp4")
