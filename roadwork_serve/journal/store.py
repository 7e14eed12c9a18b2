"""The journal's database: SQLite in a file, or PostgreSQL."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from pydantic import TypeAdapter
from sqlalchemy import Column, Connection, Engine, Row, create_engine, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, SQLAlchemyError

from roadwork_serve.errors import BadRequest, ConfigError, JournalDown
from roadwork_serve.journal.filter import Filter
from roadwork_serve.journal.media_files import MediaFiles, is_more_useful
from roadwork_serve.journal.migrate import upgrade
from roadwork_serve.journal.record import Annotation, DeferredResult, JournalRow, PredictionRecord
from roadwork_serve.journal.tables import answers, asides, files, marks
from roadwork_serve.schema import Label, StageReport, Verdict

_REPORTS = TypeAdapter(tuple[StageReport, ...])
_LOG = logging.getLogger(__name__)
_BUSY_S = 10.0  # that a writer waits for another
_PAGE = 500
_ANY = Filter()
LABELS: dict[str, Label | None] = {"roadwork": "roadwork", "none": "none", "unclear": None}


class RejectedRecords(ValueError):
    """The database is there, and does not take what a record holds."""


class Store:
    """Commits records and finds them again. May be used by one thread at a time, and by several processes at once."""

    def __init__(self, engine: Engine, kept: MediaFiles | None) -> None:
        self._engine = engine
        self.files = kept
        self._insert = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert

    @classmethod
    def open(
        cls,
        url: str,
        password: str | None = None,
        media_folder: Path | None = None,
        media_cap_bytes: int | None = None,
    ) -> "Store":
        """The journal at a URL, `sqlite:///FILE` or `postgresql://USER@HOST/DATABASE`, its tables up to date.

        password: in place of the URL's. media_folder: where files are kept; nowhere without one.

        Raises ConfigError for a URL that is none, JournalDown while the database cannot be reached.
        """
        where = _url(url, password)
        if where.drivername == "sqlite" and where.database:
            Path(where.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        engine = create_engine(where, pool_pre_ping=True)
        if where.drivername == "sqlite":
            event.listen(engine, "connect", _prepare)
        store = cls(engine, None if media_folder is None else MediaFiles(media_folder, media_cap_bytes or 2**62))
        try:
            with _first_alone(where), store._told():
                upgrade(engine)
        except BaseException:
            store.close()
            raise
        return store

    def commit(self, records: Sequence[PredictionRecord | DeferredResult]) -> None:
        """Write records, all or none; those that are there already stay as they are. When this returns they survive a
        power cut, as far as the disk keeps its word. A file that the disk does not take is left out.

        Raises JournalDown, and Refused where the database does not take what a record holds.
        """
        entries = [record for record in records if isinstance(record, PredictionRecord)]
        beside = [record for record in records if isinstance(record, DeferredResult)]
        room = self.files
        kept = [row for entry in entries if (row := _put(room, entry)) is not None] if room is not None else []
        gone: list[Path] = []
        with self._told(), self._engine.begin() as connection:
            if entries:
                connection.execute(
                    self._insert(answers).on_conflict_do_nothing(), [_answer(entry) for entry in entries]
                )
            if beside:
                connection.execute(self._insert(asides).on_conflict_do_nothing(), [_aside(aside) for aside in beside])
            if kept and room is not None:
                new = self._insert(files)
                greater = is_more_useful(files.c.useful, new.excluded.useful)
                connection.execute(new.on_conflict_do_update(index_elements=["sha256"], set_={"useful": greater}), kept)
                gone = room.make_room(connection)
        for path in gone:
            path.unlink(missing_ok=True)

    def find(self, wanted: Filter = _ANY, limit: int | None = None, newest_first: bool = False) -> Iterator[JournalRow]:
        """The answers that are meant, a page at a time, in the order in which they were given. Raises JournalDown."""
        order = (answers.c.at_s.desc(), answers.c.id.desc()) if newest_first else (answers.c.at_s, answers.c.id)
        last: tuple[float, str] | None = None
        left = limit
        while left is None or left > 0:
            query = select(answers).where(*wanted.conditions()).order_by(*order)
            if last is not None:
                at, at_id = answers.c.at_s, answers.c.id
                beyond = at < last[0] if newest_first else at > last[0]
                query = query.where(beyond | ((at == last[0]) & (at_id < last[1] if newest_first else at_id > last[1])))
            with self._told(), self._engine.connect() as connection:
                page = connection.execute(query.limit(min(_PAGE, left or _PAGE))).all()
                cases = self._cases(connection, page)
            yield from cases
            if len(page) < min(_PAGE, left or _PAGE):
                return
            last = page[-1].at_s, page[-1].id
            left = None if left is None else left - len(page)

    def case(self, name: str) -> JournalRow:
        """The answer with this id, or the last with this request id or SHA-256. Raises BadRequest where none has."""
        with self._told(), self._engine.connect() as connection:
            for column in (answers.c.id, answers.c.request_id, answers.c.sha256):
                query = select(answers).where(column == name).order_by(answers.c.at_s.desc()).limit(1)
                if page := connection.execute(query).all():
                    return self._cases(connection, page)[0]
        raise BadRequest(f"no answer is known by {name}; `roadwork journal ls` lists them")

    def mark(self, said: Sequence[tuple[str, Annotation]]) -> int:
        """What people said, of answers by id, request id or SHA-256: all of it or nothing. Returns how many.

        What is said of one answer counts for it alone. Raises BadRequest naming the first that is not known.
        """
        rows = [
            {"of": self.case(name).entry.id, "label": mark.label, "by": mark.by, "at_s": mark.at_s, "note": mark.note}
            for name, mark in said
        ]
        if rows:
            with self._told(), self._engine.begin() as connection:
                connection.execute(marks.insert(), rows)
        return len(rows)

    def count(self, wanted: Filter = _ANY) -> int:
        """Answers that are meant."""
        with self._told(), self._engine.connect() as connection:
            return int(
                connection.execute(select(func.count()).select_from(answers).where(*wanted.conditions())).scalar_one()
            )

    def media(self, case: JournalRow) -> bytes | None:
        """The encoded file of an answer, None where it is not kept."""
        return None if self.files is None else self.files.get(case.entry.sha256)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _cases(self, connection: Connection, page: Sequence[Row[Any]]) -> list[JournalRow]:
        ids = [row.id for row in page]
        beside: dict[str, list[Row[Any]]] = {}
        for row in connection.execute(select(asides).where(asides.c.of.in_(ids)).order_by(asides.c.at_s)):
            beside.setdefault(row.of, []).append(row)
        said = {
            row.of: Annotation(row.label, row.by, row.at_s, row.note)
            for row in connection.execute(select(marks).where(marks.c.of.in_(ids)).order_by(marks.c.number))
        }
        known = select(files.c.sha256).where(files.c.sha256.in_([row.sha256 for row in page]))
        kept = set(connection.execute(known).scalars())
        return [_case(row, beside.get(row.id, []), said.get(row.id), row.sha256 in kept) for row in page]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Raises JournalDown for what the database says, without a password."""
        try:
            yield
        except SQLAlchemyError as error:
            where = self._engine.url.render_as_string(hide_password=True)
            cause = error.orig if isinstance(error, DBAPIError) else error
            line = (str(cause).strip().splitlines() or [type(error).__name__])[0]
            if isinstance(error, DataError | IntegrityError):
                raise RejectedRecords(f"the journal at {where} does not take a record: {line}") from None
            raise JournalDown(f"the journal at {where} cannot be used: {line}") from None


def _url(url: str, password: str | None) -> URL:
    try:
        where = make_url(url)
    except ArgumentError:
        raise ConfigError(
            "the journal's URL is none; write sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        ) from None
    if where.drivername == "postgresql":
        where = where.set(drivername="postgresql+psycopg")
    if where.drivername not in ("sqlite", "postgresql+psycopg"):
        raise ConfigError(f"the journal's URL begins with {where.drivername}; write sqlite:///FILE or postgresql://...")
    return where.set(password=password) if password else where


@contextmanager
def _first_alone(where: URL) -> Iterator[None]:
    """SQLite does not wait for whoever else is making a file a database with a write-ahead log."""
    if where.drivername != "sqlite" or not where.database:
        yield
        return
    with FileLock(f"{where.database}.lock", timeout=60):
        yield


def _prepare(connection: Any, _: object) -> None:
    """Of each connection to SQLite. A commit is on the disk when it returns; readers and the writer do not wait."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(1000 * _BUSY_S)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _answer(entry: PredictionRecord) -> dict[str, Any]:
    verdict, features = entry.verdict, entry.features
    return {
        "id": entry.id,
        "at_s": entry.at_s,
        "request_id": _fit(verdict.request_id, answers.c.request_id),
        "media": verdict.media,
        "label": verdict.label,
        "probability": verdict.probability,
        "exit_stage": verdict.exit.stage,
        "exit_reason": verdict.exit.reason,
        "degraded": verdict.degraded,
        "policy_version": verdict.policy_version,
        "policy_revision": entry.policy_revision,
        "profile": _fit(verdict.profile, answers.c.profile),
        "arm": verdict.arm,
        "origin": entry.origin,
        "caller": _fit(entry.caller, answers.c.caller),
        "key": _fit(entry.key, answers.c.key),
        "sha256": entry.sha256,
        "size": entry.size,
        "audit": entry.audit,
        "frames": None if features is None else len(features),
        "features": None if features is None else features.tobytes(),
        "features_model": entry.features_model,
        "verdict": verdict.model_dump_json(),
    }


def _fit(text: str, column: Column[str]) -> str:
    """What a database takes of a text that others chose: as long as the column is, and nothing that is no text."""
    most = column.type.length  # pyright: ignore[reportAttributeAccessIssue]
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()[:most]


def _put(room: MediaFiles, entry: PredictionRecord) -> dict[str, object] | None:
    try:
        return room.put(entry)
    except OSError as error:
        _LOG.error("The file of answer %s is not kept: %s", entry.id, error)
        return None


def _aside(aside: DeferredResult) -> dict[str, Any]:
    if aside.verdict is None:
        version, body = "", _REPORTS.dump_json(aside.stages).decode()
    else:
        version, body = aside.verdict.policy_version, aside.verdict.model_dump_json()
    return {"of": aside.of, "kind": aside.kind, "version": version, "at_s": aside.at_s, "body": body}


def _case(row: Row[Any], beside: Sequence[Row[Any]], mark: Annotation | None, kept: bool) -> JournalRow:
    features = None
    if row.features is not None:
        features = np.frombuffer(row.features, np.float16).reshape(row.frames, -1)
    entry = PredictionRecord(
        id=row.id,
        at_s=row.at_s,
        verdict=Verdict.model_validate(json.loads(row.verdict)),
        origin=row.origin,
        caller=row.caller,
        key=row.key,
        policy_revision=row.policy_revision,
        sha256=row.sha256,
        size=row.size,
        features=features,
        features_model=row.features_model,
        audit=row.audit,
    )
    audits = [_REPORTS.validate_json(each.body) for each in beside if each.kind == "audit"]
    shadows = tuple(Verdict.model_validate_json(each.body) for each in beside if each.kind == "shadow")
    return JournalRow(entry, audits[0] if audits else None, shadows, mark, kept)
