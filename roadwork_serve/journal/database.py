"""Connections to the journal's database: SQLite in a file, or PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from roadwork_serve.errors import ConfigError

_BUSY_TIMEOUT_S = 10.0  # for a writer that waits for another


def open_engine(url: str, password: str | None = None) -> Engine:
    """Return an engine for a journal's URL; it connects when it is used. Raises ConfigError if the URL is malformed."""
    where = _url(url, password)
    engine = create_engine(where, pool_pre_ping=True)
    if where.drivername == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
    return engine


def _url(url: str, password: str | None) -> URL:
    try:
        where = make_url(url)
    except ArgumentError:
        raise ConfigError(
            "the journal's URL is malformed; write sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        ) from None
    if where.drivername == "postgresql":
        where = where.set(drivername="postgresql+psycopg")
    if where.drivername not in ("sqlite", "postgresql+psycopg"):
        raise ConfigError(f"the journal's URL begins with {where.drivername}; write sqlite:///FILE or postgresql://...")
    return where.set(password=password) if password else where


@contextmanager
def open_lock(file: Path) -> Iterator[None]:
    """Hold a lock while a SQLite file is opened: SQLite does not wait while another process turns its log on."""
    with FileLock(f"{file}.lock", timeout=60, mode=0o600):
        yield


def _configure_sqlite(connection: Any, _: object) -> None:
    """Set up a connection to SQLite: a commit is on disk when it returns; readers and the writer do not wait."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(1000 * _BUSY_TIMEOUT_S)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()
