"""Backups of an SQLite journal, made while the server runs, and their restoration.

A backup is one file, or a folder with `journal.db` and the photos and clips in `media/`. It gets its name when it is
complete and on the disk: what an interrupted backup leaves has a hidden name and is deleted by hand.
"""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import NullPool, create_engine

from roadwork_serve.atomic_write import replace_file, replace_folder, sync_path
from roadwork_serve.errors import ConfigError
from roadwork_serve.journal.database import open_lock
from roadwork_serve.journal.migrate import check_revision, upgrade
from roadwork_serve.journal.storage_error import StorageError
from roadwork_serve.state_folder import make_folder

#: Names in the folder of a backup with media.
DATABASE, MEDIA = "journal.db", "media"
_LOGS = ("-wal", "-shm", "-journal")
_TIMEOUT_S = 10.0
_IN_USE = ("SQLITE_BUSY", "SQLITE_LOCKED")


@dataclass(frozen=True, slots=True)
class Copied:
    """Counts of a backup or a restoration. `media_files` is None if media was left out."""

    entries: int | None
    media_files: int | None = None


def back_up(database: Path, out: Path, media_folder: Path | None = None) -> Copied:
    """Write a consistent copy of a journal that may be in use.

    Args:
        database: the journal's file.
        out: the file to write; with a media folder, the folder to write.
        media_folder: the journal's photos and clips, to be copied too.

    Raises:
        ConfigError: if `out` exists, or the disk refuses.
    """
    check_new(out)
    if media_folder is None:
        with _errors(out), replace_file(out, mode=0o600, os_errors=True, sync=True) as draft:
            return Copied(_copy(database, draft))
    with _errors(out), replace_folder(out) as draft:
        file = draft / DATABASE
        entries = _copy(database, file)
        file.chmod(0o600)
        sync_path(file)
        copied = Copied(entries, copy_media(media_folder, draft / MEDIA))
        sync_path(draft)
    sync_path(out.parent)
    return copied


def restore(backup: Path, database: Path, media_folder: Path, replace: bool = False) -> Copied:
    """Put a backup in the place of a journal, in one step, once it has proved to be whole.

    Args:
        backup: the file or folder that `back_up` wrote, or another journal.
        database: the journal's file. No process may use it.
        media_folder: the journal's photos and clips; those of the backup are added to it.
        replace: replace a journal that has entries.

    Raises:
        ConfigError: if the backup is damaged or of a later version, or the journal has entries or is in use.
    """
    source = backup / DATABASE if backup.is_dir() else backup
    media = backup / MEDIA if backup.is_dir() else None
    if not source.is_file():
        raise ConfigError(f"there is no backup {source}; `roadwork journal backup` writes one")
    if database.exists() and source.samefile(database):
        raise ConfigError(f"{source} is the journal itself; name a backup")
    verify(source, "integrity_check")
    with _errors(database):
        make_folder(database.parent)
        with open_lock(database):
            _take_out_of_use(database, replace)
            count = None if media is None or not media.is_dir() else copy_media(media, media_folder)
            with replace_file(database, mode=0o600, os_errors=True, sync=True) as draft:
                entries = _copy(source, draft)
                _migrate(draft)
    return Copied(entries, count)


def verify(file: Path, pragma: str = "quick_check", name: Path | None = None) -> int | None:
    """Return the number of entries of a journal's file; None if its tables are of an earlier version.

    Args:
        file: the file.
        pragma: SQLite's check: quick_check, or the slower integrity_check.
        name: the path to report instead of the file's.

    Raises ConfigError if it is damaged, no journal, or of a later version.
    """
    called = name or file
    try:
        with closing(connect_read_only(file)) as connection:
            found = [str(row[0]) for row in connection.execute(f"PRAGMA {pragma}")]
            if found != ["ok"]:
                raise ConfigError(f"{called} is damaged ({found[0]}); use another backup")
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "alembic_version" not in tables:
                raise ConfigError(f"{called} is no journal; name a file that `roadwork journal backup` wrote")
            revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            check_revision(revision[0] if revision else None)
            return _count(connection) if "predictions" in tables else None
    except sqlite3.Error as error:
        raise ConfigError(f"this is no whole journal: {StorageError.of_sqlite(error, called).text}") from None


def connect_read_only(file: Path) -> sqlite3.Connection:
    """Return a connection that changes nothing. Raises sqlite3.Error."""
    return sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=_TIMEOUT_S)


def copy_media(source: Path, target: Path) -> int:
    """Copy stored files that the target lacks, each in one step. Returns the number of files. Raises OSError."""
    count = 0
    make_folder(target)
    for path in sorted(source.glob("??/*")):
        new = target / path.parent.name / path.name
        if path.name.startswith("."):  # being written
            continue
        if not new.exists():
            make_folder(new.parent)
            with contextlib.suppress(FileNotFoundError):  # it has just been evicted
                with replace_file(new, mode=0o600, os_errors=True) as draft:
                    shutil.copyfile(path, draft)
        count += 1
    os.sync()  # once for all of them
    return count


def check_new(out: Path) -> None:
    """Raise ConfigError if a file or folder of this name exists."""
    if out.exists():
        raise ConfigError(f"{out} already exists; name a new file, so that no backup is lost")


def _copy(source: Path, draft: Path) -> int | None:
    """Copy a database as it is at one moment, while others write to it. Returns its number of entries."""
    with closing(connect_read_only(source)) as old, closing(sqlite3.connect(draft)) as new:
        old.backup(new)
        new.execute("PRAGMA journal_mode = DELETE")  # all of it in one file
    return verify(draft, name=source)


def _migrate(draft: Path) -> None:
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(draft), poolclass=NullPool)
    upgrade(engine)
    engine.dispose()


def _take_out_of_use(database: Path, replace: bool) -> None:
    """Gather a journal in its one file, which only works if no process uses it.

    Then the file that takes its name finds no log of another database beside it.
    """
    logs = [database.with_name(database.name + suffix) for suffix in _LOGS]
    try:
        if database.exists():
            with closing(sqlite3.connect(database, timeout=1.0)) as connection:
                tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
                if "alembic_version" in tables and not replace:
                    entries = _count(connection) if "predictions" in tables else None
                    if entries != 0:
                        raise ConfigError(f"{database} has entries ({entries}); pass --replace to replace them")
                connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        text = StorageError.of_sqlite(error, database).text
        if getattr(error, "sqlite_errorname", None) in _IN_USE:
            raise ConfigError(f"the journal is in use: {text}; stop the server, then restore") from None
        if not replace:
            raise ConfigError(f"the journal cannot be read: {text}; pass --replace to replace it") from None
    for log in logs:
        log.unlink(missing_ok=True)


def _count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM predictions").fetchone()[0])


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turn errors of disk and database into ConfigError, with the path."""
    try:
        yield
    except OSError as error:
        found = StorageError.of(error, Path(error.filename or path))
        raise ConfigError(f"nothing was written: {found.text}") from None
    except sqlite3.Error as error:
        raise ConfigError(f"nothing was written: {StorageError.of_sqlite(error, path).text}") from None
