"""`roadwork journal check`, `backup` and `restore`. Each command imports what it needs when it runs."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roadwork_serve.cli.options import JournalUrl, MediaFolder, journal_url
from roadwork_serve.errors import ConfigError
from roadwork_serve.terminal import echo, echo_json

if TYPE_CHECKING:
    from roadwork_serve.journal.backup import Copied


def check(
    url: JournalUrl = None,
    folder: MediaFolder = None,
    spool_folder: Annotated[
        Path | None,
        typer.Option(help="Folder of records that the journal has not acknowledged. By default spool/ beside SQLite."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Check SQLite's indices, too. This takes longer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Check the database, the media files and the spool. Exits with 1 if there is a problem. Changes nothing."""
    from dataclasses import asdict

    from roadwork_serve.journal.check import check_journal

    where, database, media = _places(url, folder)
    if database is not None:
        _require(database)
        spool_folder = spool_folder or database.parent / "spool"
    found = check_journal(where, _password(), media, spool_folder, full)
    if as_json:
        echo_json(json.dumps(asdict(found), indent=2))
    else:
        _print_line("revision of the tables", found.revision)
        _print_line("entries", found.entries)
        _print_line("audits and shadow verdicts", found.deferred_results)
        _print_line("human labels", found.annotations)
        _print_line("media files", f"{found.media_files:,} of {found.media_rows or 0:,}")
        _print_line("records in the spool", found.waiting)
        _print_line("records lost", found.dropped)
        for problem in found.problems:
            echo(f"Problem: {problem}.")
        if not found.problems:
            echo("No problem was found.")
    if found.problems:
        raise typer.Exit(1)


def backup(
    out: Annotated[Path, typer.Argument(help="File to write; with --media, a folder. It must not exist.")],
    url: JournalUrl = None,
    folder: MediaFolder = None,
    with_media: Annotated[bool, typer.Option("--media", help="Copy the photos and clips, too.")] = False,
) -> None:
    """Write a consistent copy of the journal, while the server runs. PostgreSQL needs its program pg_dump."""
    where, database, media = _places(url, folder)
    if with_media and media is None:
        raise ConfigError("the folder of photos and clips is unknown; name it with --media-folder")
    if database is not None:
        from roadwork_serve.journal.backup import back_up

        copied = back_up(_require(database), out, media if with_media else None)
    else:
        from roadwork_serve.journal.backup_postgres import back_up as dump

        copied = dump(where, _password(), out, media if with_media else None)
    _print_copied(copied, out)


def restore(
    backup: Annotated[Path, typer.Argument(help="File or folder that `roadwork journal backup` wrote.")],
    url: JournalUrl = None,
    folder: MediaFolder = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a journal that has entries.")] = False,
) -> None:
    """Put a backup in the place of the journal. Stop the server first.

    The backup is verified before anything changes, and takes the journal's place in one step.
    """
    where, database, media = _places(url, folder)
    if database is not None:
        from roadwork_serve.journal.backup import restore as put_back

        copied = put_back(backup, database, media or database.parent / "media", replace)
    else:
        from roadwork_serve.journal.backup_postgres import restore as load

        copied = load(where, _password(), backup, media, replace)
    _print_copied(copied, where if database is None else database)


def _places(url: str | None, folder: Path | None) -> tuple[str, Path | None, Path | None]:
    """Return the journal's URL, its file if it is SQLite, and its media folder if that is known."""
    from roadwork_serve.profiles.journal import sqlite_file

    where = journal_url(url)
    database = sqlite_file(where)
    return where, database, folder or (None if database is None else database.parent / "media")


def _require(database: Path) -> Path:
    if not database.is_file():
        raise ConfigError(f"there is no journal {database}; name another with --journal or --state")
    return database


def _password() -> str | None:
    from roadwork_serve.journal.store import PASSWORD_VARIABLE

    return os.environ.get(PASSWORD_VARIABLE)


def _print_copied(copied: "Copied", place: Path | str) -> None:
    entries = "The entries of an earlier version" if copied.entries is None else f"{copied.entries:,} entries"
    media = "" if copied.media_files is None else f" and {copied.media_files:,} media files"
    echo(f"{entries}{media} are in {place}")


def _print_line(name: str, value: object) -> None:
    echo(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {'unknown' if value is None else value}")
