"""Backups of a journal in PostgreSQL, with its own programs pg_dump and pg_restore."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from sqlalchemy import func, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from roadwork_serve.atomic_write import replace_file, replace_folder, sync_path
from roadwork_serve.errors import ConfigError
from roadwork_serve.journal.backup import MEDIA, Copied, check_new, copy_media
from roadwork_serve.journal.database import open_engine
from roadwork_serve.journal.migrate import check_revision
from roadwork_serve.journal.tables import predictions

DUMP = "journal.dump"
_REVISION = re.compile(r"^COPY \S*alembic_version .*\n(\w+)$", re.MULTILINE)


def back_up(url: str, password: str | None, out: Path, media_folder: Path | None = None) -> Copied:
    """Write a dump in PostgreSQL's custom format, or a folder with the dump and the media files.

    Raises ConfigError if `out` exists, pg_dump is missing, or it fails.
    """
    check_new(out)
    if media_folder is None:
        with replace_file(out, mode=0o600, sync=True) as draft:
            _dump(url, password, draft)
        return Copied(_entries(url, password))
    with replace_folder(out) as draft:
        _dump(url, password, draft / DUMP)
        sync_path(draft / DUMP)
        copied = Copied(_entries(url, password), copy_media(media_folder, draft / MEDIA))
    sync_path(out.parent)
    return copied


def restore(url: str, password: str | None, backup: Path, media_folder: Path | None, replace: bool = False) -> Copied:
    """Load a dump in one transaction, once it has proved to be readable.

    Raises ConfigError if the dump is damaged or of a later version, the journal has entries, or pg_restore fails.
    """
    dump = backup / DUMP if backup.is_dir() else backup
    if not dump.is_file():
        raise ConfigError(f"there is no backup {dump}; `roadwork journal backup` writes one")
    _run("pg_restore", [f"--file={os.devnull}", str(dump)], url, password)  # reads all of it
    text = _run("pg_restore", ["--data-only", "--table=alembic_version", "--file=-", str(dump)], url, password)
    if (found := _REVISION.search(text)) is None:
        raise ConfigError(f"{dump} is no journal; name a file that `roadwork journal backup` wrote")
    check_revision(found[1])
    if (entries := _entries(url, password)) and not replace:
        raise ConfigError(f"the journal has entries ({entries}); pass --replace to replace them")
    count = None
    if media_folder is not None and backup.is_dir() and (backup / MEDIA).is_dir():
        count = copy_media(backup / MEDIA, media_folder)
    options = ["--single-transaction", "--clean", "--if-exists", "--no-owner", f"--dbname={_address(url)}"]
    _run("pg_restore", [*options, str(dump)], url, password)
    return Copied(_entries(url, password), count)


def _dump(url: str, password: str | None, out: Path) -> None:
    options = ["--format=custom", "--no-owner", f"--file={out}", f"--dbname={_address(url)}"]
    _run("pg_dump", options, url, password)


def _entries(url: str, password: str | None) -> int | None:
    """Return the number of entries; None if there is no table of them."""
    engine = open_engine(url, password)
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table(predictions.name):
                return None
            return int(connection.execute(select(func.count()).select_from(predictions)).scalar_one())
    except SQLAlchemyError as error:
        line = str(error.__cause__ or error).strip().splitlines()[0]
        raise ConfigError(f"the journal cannot be reached: {line}; correct --journal") from None
    finally:
        engine.dispose()


def _address(url: str) -> str:
    """Return the URL without the password, which other users could see in the list of processes."""
    return make_url(url).set(drivername="postgresql", password=None).render_as_string(hide_password=False)


def _run(name: str, options: list[str], url: str, password: str | None) -> str:
    program = shutil.which(name)
    if program is None:
        raise ConfigError(f"{name} is not installed; install PostgreSQL's client programs (Debian: postgresql-client)")
    environment = dict(os.environ)
    if secret := password or make_url(url).password:
        environment["PGPASSWORD"] = str(secret)
    done = subprocess.run([program, *options], env=environment, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ConfigError(f"nothing was written: {lines[0]}")
    return done.stdout
