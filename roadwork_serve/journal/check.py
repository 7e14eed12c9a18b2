"""A check of a whole journal: database, media files and spool. It changes nothing."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, Engine, NullPool, Table, create_engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from roadwork_serve.errors import ConfigError
from roadwork_serve.journal.backup import connect_read_only
from roadwork_serve.journal.database import open_engine
from roadwork_serve.journal.migrate import check_revision, current_revision, newest_revision
from roadwork_serve.journal.segments import DAMAGED, waiting
from roadwork_serve.journal.tables import annotations, deferred_results, media_files, predictions
from roadwork_serve.profiles.journal import sqlite_file

_FRESH_S = 60.0  # a file that the running journal may be about to commit, or has just evicted
_SHOWN = 5  # damages in one database


@dataclass(slots=True)
class JournalCheck:
    """Results of a check. Counts of tables are None if they could not be read."""

    revision: str | None = None
    entries: int | None = None
    deferred_results: int | None = None
    annotations: int | None = None
    media_rows: int | None = None
    media_files: int = 0
    #: Records in the spool that the journal has not acknowledged.
    waiting: int = 0
    #: Records that were lost, by the processes whose spool folders are there.
    dropped: int = 0
    #: One line for each problem, with what to do.
    problems: list[str] = field(default_factory=list)


def check_journal(
    url: str, password: str | None, media_folder: Path | None, spool_folder: Path | None, full: bool = False
) -> JournalCheck:
    """Check a journal that may be in use.

    Args:
        url: the database; an SQLite file is opened for reading only.
        password: replaces the URL's.
        media_folder: folder of the media files; None skips them.
        spool_folder: folder of the spools; None skips them.
        full: compare SQLite's indices with its tables, too, which takes longer.
    """
    found = JournalCheck()
    file = sqlite_file(url)
    engine = open_engine(url, password) if file is None else _read_only(file)
    try:
        with engine.connect() as connection:
            if file is not None:
                _check_sqlite(connection, found, full)
            _check_tables(connection, found, media_folder)
    except SQLAlchemyError as error:
        line = str(error.__cause__ or error).strip().splitlines()[0]
        found.problems.append(f"the database cannot be read: {line}; restore a backup with `roadwork journal restore`")
    finally:
        engine.dispose()
    if spool_folder is not None:
        _check_spool(spool_folder, found)
    return found


def _read_only(file: Path) -> Engine:
    return create_engine("sqlite://", creator=lambda: connect_read_only(file), poolclass=NullPool)


def _check_sqlite(connection: Connection, found: JournalCheck, full: bool) -> None:
    pragma = "integrity_check" if full else "quick_check"
    lines = [str(row[0]) for row in connection.exec_driver_sql(f"PRAGMA {pragma}({_SHOWN})")]
    if lines != ["ok"]:
        cure = "restore a backup with `roadwork journal restore --replace`"
        found.problems.extend(f"the database is damaged: {line}; {cure}" for line in lines)
    broken = len(connection.exec_driver_sql("PRAGMA foreign_key_check").all())
    if broken:
        found.problems.append(f"{broken} labels belong to no entry; restore a backup, or delete them")


def _check_tables(connection: Connection, found: JournalCheck, media_folder: Path | None) -> None:
    found.revision = current_revision(connection)
    if found.revision is None:
        found.problems.append("the database has no tables; `roadwork serve` creates them with the first record")
        return
    try:
        check_revision(found.revision)
    except ConfigError as error:
        found.problems.append(str(error))
        return
    if found.revision != newest_revision():
        return  # the next start migrates it
    found.entries = _count(connection, predictions)
    found.deferred_results = _count(connection, deferred_results)
    found.annotations = _count(connection, annotations)
    found.media_rows = _count(connection, media_files)
    if media_folder is not None:
        _check_media(connection, found, media_folder)


def _check_media(connection: Connection, found: JournalCheck, folder: Path) -> None:
    old_s = time.time() - _FRESH_S
    files = {path.name: path for path in folder.glob("??/*") if not path.name.startswith(".")}
    found.media_files = len(files)
    missing: list[str] = []
    for sha256, suffix in connection.execute(select(media_files.c.sha256, media_files.c.suffix)):
        name = f"{sha256}.{suffix}"
        if files.pop(name, None) is None and not (folder / name[:2] / name).exists():
            missing.append(name)
    extra = [name for name, path in files.items() if _modified_s(path) < old_s]
    if missing:
        found.problems.append(f"{len(missing)} media files are missing in {folder}, such as {missing[0]}; restore them")
    if extra:
        found.problems.append(
            f"{len(extra)} media files in {folder} belong to no entry, such as {extra[0]}; they may be deleted"
        )


def _check_spool(folder: Path, found: JournalCheck) -> None:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name == DAMAGED:
            found.problems.append(
                f"{path} has {path.stat().st_size:,} bytes of records that the journal could not store; keep it for an "
                "analysis, then delete it"
            )
        elif path.is_dir():
            try:
                records, dropped = waiting(path)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):  # it was adopted meanwhile
                    found.problems.append(f"{path} cannot be read: {error.strerror}; correct its permissions")
                continue
            found.waiting += records
            found.dropped += dropped


def _count(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def _modified_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()
