"""The journal's database: SQLite in a file, or PostgreSQL."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Row, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from roadwork_serve.errors import BadRequest, JournalDown
from roadwork_serve.journal.database import open_engine, open_lock
from roadwork_serve.journal.database_file import DatabaseFile
from roadwork_serve.journal.filter import Filter
from roadwork_serve.journal.forget import Forgotten, expired, forget_entries, forget_files
from roadwork_serve.journal.labels import withdraw_label
from roadwork_serve.journal.media_files import MediaFiles, greater_of
from roadwork_serve.journal.paging import Position
from roadwork_serve.journal.record import Annotation, DeferredResult, JournalRow, PredictionRecord
from roadwork_serve.journal.rows import deferred_values, journal_row, prediction_values
from roadwork_serve.journal.storage_error import StorageError
from roadwork_serve.journal.tables import annotations, deferred_results, media_files, predictions
from roadwork_serve.state_folder import make_folder

_LOG = logging.getLogger(__name__)
_PAGE = 500
_NAMED = 5  # predictions that an error lists
_TRIES = 3  # of a commit whose file is replaced meanwhile
_ALL = Filter()
PASSWORD_VARIABLE = "ROADWORK_JOURNAL_PASSWORD"  # noqa: S105 - the name of a variable

T = TypeVar("T")


class RejectedRecords(ValueError):
    """The database is available, but rejects the content of a record."""


class SeveralPredictions(BadRequest):
    """A request id names several predictions, so a label for it may be meant for any of them."""


class Store:
    """Writes records and reads them back. For one thread at a time; several processes may use one journal at once.

    If somebody removes or replaces the file of an SQLite journal, the store makes or opens the one of that name, before
    it writes or reads again.
    """

    def __init__(self, engine: Engine, media: MediaFiles | None) -> None:
        self._engine = engine
        self.media_files = media
        self._insert = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert
        on_disk = engine.dialect.name == "sqlite" and engine.url.database
        self._file = DatabaseFile(Path(engine.url.database or "").absolute()) if on_disk else None

    @classmethod
    def open(
        cls,
        url: str,
        password: str | None = None,
        media_folder: Path | None = None,
        max_media_bytes: int | None = None,
    ) -> "Store":
        """Open the journal at a URL, `sqlite:///FILE` or `postgresql://USER@HOST/DATABASE`, and migrate its tables.

        Args:
            url: the database.
            password: replaces the URL's.
            media_folder: folder for encoded files; without one none are stored.
            max_media_bytes: size limit of that folder.

        Raises:
            ConfigError: if the URL is malformed, or a later version wrote the journal.
            JournalDown: if the database cannot be reached.
        """
        engine = open_engine(url, password)
        store = cls(engine, None if media_folder is None else MediaFiles(media_folder, max_media_bytes or 2**62))
        try:
            store._open()
        except BaseException:
            store.close()
            raise
        return store

    def commit(self, records: Sequence[PredictionRecord | DeferredResult]) -> None:
        """Write records in one transaction; those that exist already stay unchanged.

        When this returns they survive a power cut, as far as the disk honours flushes, in the file that has the
        journal's name. A file that the disk rejects is left out.

        Raises JournalDown, and RejectedRecords if the database rejects the content of a record.
        """
        self._write(lambda: self._commit(records))

    def _commit(self, records: Sequence[PredictionRecord | DeferredResult]) -> None:
        new = [record for record in records if isinstance(record, PredictionRecord)]
        deferred = [record for record in records if isinstance(record, DeferredResult)]
        media = self.media_files
        stored = [row for each in new if (row := _write_media(media, each)) is not None] if media is not None else []
        evicted: list[Path] = []
        with self._errors(), self._engine.begin() as connection:
            if new:
                insert = self._insert(predictions).on_conflict_do_nothing()
                connection.execute(insert, [prediction_values(each) for each in new])
            if deferred:
                insert = self._insert(deferred_results).on_conflict_do_nothing()
                connection.execute(insert, [deferred_values(each) for each in deferred])
            if stored and media is not None:
                insert = self._insert(media_files)
                greater = greater_of(media_files.c.usefulness, insert.excluded.usefulness)
                update = insert.on_conflict_do_update(index_elements=["sha256"], set_={"usefulness": greater})
                connection.execute(update, stored)
                evicted = media.evict(connection)
        for path in evicted:
            path.unlink(missing_ok=True)

    def find(
        self,
        where: Filter = _ALL,
        limit: int | None = None,
        newest_first: bool = False,
        after: Position | None = None,
    ) -> Iterator[JournalRow]:
        """Yield the selected rows in the order of their predictions, read page by page. Raises JournalDown.

        Args:
            where: selects rows.
            limit: number of rows; None for all.
            newest_first: order of the rows; the oldest come first otherwise.
            after: a position in that order, behind which the rows begin.
        """
        time, key = predictions.c.created_at_s, predictions.c.id
        order = (time.desc(), key.desc()) if newest_first else (time, key)
        last = after
        left = limit
        while left is None or left > 0:
            query = select(predictions).where(*where.conditions()).order_by(*order)
            if last is not None:
                query = query.where(last.beyond(newest_first))
            self._follow_file()
            with self._errors(), self._engine.connect() as connection:
                page = connection.execute(query.limit(min(_PAGE, left or _PAGE))).all()
                rows = self._rows(connection, page)
            yield from rows
            if len(page) < min(_PAGE, left or _PAGE):
                return
            last = Position(page[-1].created_at_s, page[-1].id)
            left = None if left is None else left - len(page)

    def position_after(self, start: Position | None, count: int) -> Position | None:
        """Return the position `count` predictions before another one, or before the end; None if there are fewer."""
        time, key = predictions.c.created_at_s, predictions.c.id
        query = select(time, key).order_by(time.desc(), key.desc()).offset(count).limit(1)
        if start is not None:
            query = query.where(start.beyond(newest_first=True))
        self._follow_file()
        with self._errors(), self._engine.connect() as connection:
            row = connection.execute(query).first()
        return None if row is None else Position(*row)

    def get(self, name: str) -> JournalRow:
        """Return the prediction with this id, or the latest with this request id or SHA-256.

        Raises BadRequest if there is none.
        """
        self._follow_file()
        with self._errors(), self._engine.connect() as connection:
            for column in (predictions.c.id, predictions.c.request_id, predictions.c.sha256):
                query = select(predictions).where(column == name).order_by(predictions.c.created_at_s.desc()).limit(1)
                if page := connection.execute(query).all():
                    return self._rows(connection, page)[0]
        raise BadRequest(f"the journal has no prediction {name}; `roadwork journal list` lists them")

    def annotate(self, labels: Sequence[tuple[str, Annotation]]) -> int:
        """Add annotations to predictions named by id, request id or SHA-256, all or none. Returns their number.

        An annotation counts for its prediction alone. Raises BadRequest naming the first unknown prediction, and
        SeveralPredictions for a request id that occurs more than once.
        """
        return self._write(lambda: self._annotate(labels))

    def _annotate(self, labels: Sequence[tuple[str, Annotation]]) -> int:
        rows = [
            {
                "prediction_id": self._get_one(name).prediction.id,
                "label": annotation.label,
                "author": annotation.author,
                "created_at_s": annotation.created_at_s,
                "note": annotation.note,
            }
            for name, annotation in labels
        ]
        if rows:
            with self._errors(), self._engine.begin() as connection:
                connection.execute(annotations.insert(), rows)
        return len(rows)

    def withdraw_label(self, prediction_id: str, author: str) -> bool:
        """Delete the latest label of a prediction, if it is this author's. Returns whether there was one."""

        def write() -> bool:
            with self._errors(), self._engine.begin() as connection:
                return withdraw_label(connection, prediction_id, author)

        return self._write(write)

    def forget(self, where: Filter, files_only: bool = False) -> Forgotten:
        """Delete the selected predictions with all that belongs to them, or only their files. Raises JournalDown."""

        def work(connection: Connection) -> tuple[int, list[Path]]:
            return forget_entries(connection, self.media_files, where, files_only)

        entries, files = self._write(lambda: self._delete(work))
        return Forgotten(entries, files)

    def expire_media(self, before_s: float) -> int:
        """Delete the files from before a time that no person has labelled. Returns their number. Raises JournalDown."""
        if (media := self.media_files) is None:
            return 0
        return self._write(lambda: self._delete(lambda each: (0, forget_files(each, media, expired(before_s)))))[1]

    def _delete(self, work: Callable[[Connection], tuple[int, list[Path]]]) -> tuple[int, int]:
        """Run a deletion; SQLite overwrites what is deleted. Returns the numbers of entries and of files."""
        sqlite_file = self._file is not None
        with self._errors(), self._engine.begin() as connection:
            if sqlite_file:
                connection.exec_driver_sql("PRAGMA secure_delete = ON")
            entries, files = work(connection)
        for file in files:
            file.unlink(missing_ok=True)
        if sqlite_file and (entries or files):
            with self._errors(), self._engine.connect() as connection:  # the log still holds what was written lately
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return entries, len(files)

    def _get_one(self, name: str) -> JournalRow:
        """Return what `get` returns, unless the name is a request id of several predictions."""
        row = self.get(name)
        if name == row.prediction.id or name == row.prediction.sha256:
            return row
        same = list(self.find(Filter(request_id=name), _NAMED + 1, newest_first=True))
        if len(same) > 1:
            ids = [f"{each.prediction.id} ({each.prediction.filename or each.prediction.sha256[:12]})" for each in same]
            count, more = self.count(Filter(request_id=name)), ", ..." if len(same) > _NAMED else ""
            raise SeveralPredictions(
                f"{count} predictions have the request id {name}: {', '.join(ids[:_NAMED])}{more}; name one by its id"
            )
        return row

    def count(self, where: Filter = _ALL) -> int:
        """Return the number of selected rows."""
        query = select(func.count()).select_from(predictions).where(*where.conditions())
        self._follow_file()
        with self._errors(), self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def read_media(self, row: JournalRow) -> bytes | None:
        """Return the encoded file of a prediction; None if it is not stored."""
        return None if self.media_files is None else self.media_files.read(row.prediction.sha256)

    def close(self) -> None:
        """Close the connections to the database."""
        self._engine.dispose()

    def _open(self) -> None:
        """Open the database, made anew if it is missing, and migrate its tables. Raises ConfigError and JournalDown."""
        from roadwork_serve.journal.migrate import upgrade  # a fifth of a second, for those that open a journal

        file = self._file
        if file is None:
            with self._errors():
                upgrade(self._engine)
            return
        self._engine.dispose()
        with self._errors():
            make_folder(file.path.parent)
            with open_lock(file.path):
                file.discard_old_log()
                file.create()
                opened = file.identity()
                upgrade(self._engine)
        if file.identity() != opened:
            raise JournalDown(f"{file.path} was replaced while it was opened; it is opened again")
        file.remember(opened)

    def _follow_file(self) -> None:
        """Open the file that has the journal's name, if it is no longer the one that is open."""
        file = self._file
        if file is None or not file.moved:
            return
        with contextlib.suppress(SQLAlchemyError), self._engine.connect() as connection:
            if file.replaced:
                count = connection.execute(select(func.count()).select_from(predictions)).scalar_one()
                _LOG.error(
                    "%s was removed or replaced while it was open; its %d entries are no longer in the journal. "
                    "The file of that name is opened.",
                    file.path, count,
                )  # fmt: skip
            else:
                _LOG.error("The write-ahead log of %s was removed; it is made anew.", file.path)
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")  # what only the open log has
        self._open()

    def _write(self, write: Callable[[], T]) -> T:
        """Run a transaction, again if its file lost the journal's name meanwhile. Raises JournalDown."""
        for _ in range(_TRIES):
            self._follow_file()
            result = write()
            if self._file is None:
                return result
            if not self._file.moved:
                self._file.remember_log()
                return result
        raise JournalDown("the journal's file is replaced again and again; let one program at a time use its folder")

    def _rows(self, connection: Connection, page: Sequence[Row[Any]]) -> list[JournalRow]:
        ids = [row.id for row in page]
        later, notes, media = deferred_results, annotations, media_files
        deferred: dict[str, list[Row[Any]]] = {}
        query = select(later).where(later.c.prediction_id.in_(ids)).order_by(later.c.created_at_s)
        for row in connection.execute(query):
            deferred.setdefault(row.prediction_id, []).append(row)
        query = select(notes).where(notes.c.prediction_id.in_(ids)).order_by(notes.c.id)
        latest = {
            row.prediction_id: Annotation(row.label, row.author, row.created_at_s, row.note)
            for row in connection.execute(query)
        }
        known = select(media.c.sha256).where(media.c.sha256.in_([row.sha256 for row in page]))
        stored = set(connection.execute(known).scalars())
        return [journal_row(row, deferred.get(row.id, []), latest.get(row.id), row.sha256 in stored) for row in page]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of database and disk into JournalDown or RejectedRecords, without a password in the text."""
        try:
            yield
        except OSError as error:
            if self._file is None:
                raise
            found = StorageError.of(error, Path(error.filename or self._file.path))
            raise JournalDown(f"the journal cannot be used: {found.text}", found.code) from None
        except SQLAlchemyError as error:
            where = self._engine.url.render_as_string(hide_password=True)
            cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
            line = (str(cause).strip().splitlines() or [type(error).__name__])[0]
            if isinstance(error, DataError | IntegrityError):
                raise RejectedRecords(f"the journal at {where} rejects a record: {line}") from None
            if self._file is not None:
                found = StorageError.of_sqlite(cause, self._file.path)
                raise JournalDown(f"the journal cannot be used: {found.text}", found.code) from None
            raise JournalDown(f"the journal at {where} cannot be used: {line}") from None


def _write_media(media: MediaFiles, prediction: PredictionRecord) -> dict[str, object] | None:
    try:
        return media.write(prediction)
    except OSError as error:
        _LOG.error("The file of prediction %s is not stored: %s", prediction.id, error)
        return None
