"""`roadwork journal export`. It imports what it needs when it runs."""

from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roadwork_serve.cli.options import JournalUrl, MediaFolder, filtered, open_journal
from roadwork_serve.table_files import ENDINGS, check_ending
from roadwork_serve.terminal import echo

if TYPE_CHECKING:
    from roadwork_serve.journal.filter import Filter


class Format(StrEnum):
    """A format of an export."""

    csv = "csv"
    parquet = "parquet"
    jsonl = "jsonl"
    fiftyone = "fiftyone"


@filtered
def export(
    selection: "Filter",
    out: Annotated[Path, typer.Argument(help="File to write: .csv, .parquet or .jsonl; for FiftyOne, a folder.")],
    format: Annotated[
        Format | None,
        typer.Option(help="Format to write: a table, by default as the file ends, or a dataset for FiftyOne."),
    ] = None,
    url: JournalUrl = None,
    folder: MediaFolder = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Largest number of entries to export.")] = None,
    dataset_name: Annotated[str, typer.Option(help="Name of the FiftyOne dataset.")] = "roadwork",
    push: Annotated[
        bool, typer.Option("--push", help="Import the dataset into FiftyOne, which must be installed.")
    ] = False,
) -> None:
    """Export entries as a table, or as a FiftyOne dataset."""
    if push and format is not Format.fiftyone:
        raise typer.BadParameter("--push goes with --format fiftyone")
    if format is not Format.fiftyone:
        check_ending(out, ENDINGS if format is None else (f".{format}",))
    with closing(open_journal(url, folder)) as store:
        rows = store.find(selection, limit)
        if format is Format.fiftyone:
            from roadwork_serve.journal.fiftyone import write_dataset
            from roadwork_serve.journal.novelty import reference_set

            made = write_dataset(out, rows, store.read_media, dataset_name, reference_set(store))
            echo(f"{made.photos} photos and {made.clips} clips are in {out}; {made.without_file} have no file.")
            if made.without_file:
                echo("The server stores the files of new entries if journal.max_media_gib is set in its profile.")
        else:
            from roadwork_serve.journal.export import write_table

            echo(f"{write_table(out, rows):,} entries are in {out}")
    if push:
        from roadwork_serve.journal.fiftyone import push as push_dataset

        echo(f"FiftyOne has {push_dataset(out)}.")
