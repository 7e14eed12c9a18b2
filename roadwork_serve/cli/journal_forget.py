"""`roadwork journal forget`: delete entries, or their photos and clips. It imports what it needs when it runs."""

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from roadwork_serve.cli.options import JournalUrl, MediaFolder, filtered, open_journal
from roadwork_serve.errors import ConfigError
from roadwork_serve.terminal import echo

if TYPE_CHECKING:
    from roadwork_serve.journal.filter import Filter


@filtered
def forget(
    selection: "Filter",
    name: Annotated[
        str | None, typer.Argument(help="Id of the entry, its request id, or the SHA-256 of its file.")
    ] = None,
    files_only: Annotated[
        bool, typer.Option("--files-only", help="Delete the photos and clips and keep the entries.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Delete all entries.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: JournalUrl = None,
    folder: MediaFolder = None,
) -> None:
    """Delete entries for good: the verdict, its features, labels and file. Backups keep what they have."""
    from roadwork_serve.journal.filter import Filter

    if (name is not None) + (selection != Filter()) + everything != 1:
        raise ConfigError("say which entries to delete: one by its name, some by options such as --until 30d, or --all")
    with closing(open_journal(url, folder)) as store:
        if name is not None:
            selection = replace(selection, sha256=store.get(name).prediction.sha256)
        count = store.count(selection)
        what = "the photos and clips of " if files_only else ""
        if not yes and not typer.confirm(f"Delete {what}{count:,} entries for good?"):
            raise typer.Exit(1)
        done = store.forget(selection, files_only)
    echo(f"{done.entries:,} entries and {done.files:,} files are deleted.")
