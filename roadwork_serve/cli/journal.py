"""`roadwork journal`: recorded verdicts and their human labels. Each command imports what it needs when it runs."""

import json
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roadwork_serve.cli.journal_backup import backup, check, restore
from roadwork_serve.cli.journal_export import export
from roadwork_serve.cli.journal_forget import forget
from roadwork_serve.cli.journal_select import drift, drift_table, rank, sample
from roadwork_serve.cli.options import (
    DEFAULT_TASK,
    JournalUrl,
    MediaFolder,
    PrintJson,
    TaskName,
    add_state_option,
    filtered,
    open_journal,
)
from roadwork_serve.csv_files import read_csv
from roadwork_serve.errors import ConfigError
from roadwork_serve.terminal import console, echo, echo_json, foreign

if TYPE_CHECKING:
    from roadwork_serve.journal.filter import Filter
    from roadwork_serve.journal.record import JournalRow
    from roadwork_serve.journal.store import Store
    from roadwork_serve.schema import StageReport, Verdict

journal = typer.Typer(no_args_is_help=True, help="Search, label, sample, export and back up recorded verdicts.")


@journal.command("list")
@filtered
def list_entries(
    selection: "Filter",
    url: JournalUrl = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Largest number of entries to list.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line instead of a table.")] = False,
) -> None:
    """List entries, the newest first."""
    from rich.table import Table

    from roadwork_serve.journal.export import export_row

    table = Table("created at", "id", "file name", "media", "label", "P", "exit", "policy", "human label", box=None)
    with closing(open_journal(url)) as store:
        for row in store.find(selection, limit, newest_first=True):
            values = export_row(row)
            if as_json:
                echo_json(json.dumps(values, default=datetime.isoformat))
                continue
            created_at = values["created_at"].strftime("%Y-%m-%d %H:%M:%S")
            exit_stage = f"{values['exit_stage']}{', degraded' if values['degraded'] else ''}"
            table.add_row(
                created_at, foreign(values["id"]), foreign(values["filename"]), values["media"], values["label"],
                f"{values['probability']:.3f}", exit_stage, foreign(values["policy_version"]),
                values["human_label"] or "",
            )  # fmt: skip
        if not as_json:
            console().print(table)
            echo(f"{store.count(selection):,} entries match.")


@journal.command()
def show(
    name: Annotated[str, typer.Argument(help="Id of the entry, its request id, or the SHA-256 of its file.")],
    url: JournalUrl = None,
    folder: MediaFolder = None,
) -> None:
    """Print everything about one entry, as JSON."""
    from roadwork_serve.journal.rows import record_values

    with closing(open_journal(url, folder)) as store:
        row = store.get(name)
        file = _file(store, row)
    entry, annotation = row.prediction, row.annotation
    features = entry.features
    known: dict[str, Any] = record_values(entry) | {
        "created_at": datetime.fromtimestamp(entry.created_at_s, UTC).isoformat(),
        "file": file,
        "features": None if features is None else {"shape": features.shape},
        "verdict": _plain(entry.verdict),
        "audit": None if row.audit is None else [_plain(report) for report in row.audit],
        "shadows": [_plain(verdict) for verdict in row.shadows],
        "human_label": None
        if annotation is None
        else {
            "label": annotation.label or "unclear",
            "author": annotation.author,
            "created_at": datetime.fromtimestamp(annotation.created_at_s, UTC).isoformat(),
            "note": annotation.note,
        },
    }
    echo_json(json.dumps(known, indent=2))


@journal.command("label")
def label_entries(
    name: Annotated[
        str | None, typer.Argument(help="Id of the entry, its request id, or the SHA-256 of its file.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Argument(help="Label to assign: roadwork, none or unclear; with --task, a label of that task."),
    ] = None,
    author: Annotated[str, typer.Option(envvar="USER", help="Name of the person who assigns the label.")] = "somebody",
    note: Annotated[str, typer.Option(help="Comment to store with the label.")] = "",
    file: Annotated[
        Path | None,
        typer.Option("--csv", help="Assign many labels from a CSV file: a column label, and id, request_id or sha256."),
    ] = None,
    task: TaskName = DEFAULT_TASK,
    url: JournalUrl = None,
) -> None:
    """Assign human labels to entries. Earlier labels are kept; the last one counts."""
    from roadwork_serve.journal.record import Annotation
    from roadwork_serve.profiles.task import load_task
    from roadwork_serve.schema import UNCLEAR

    if (file is None) == (name is None or label is None) or (file is not None and name is not None):
        raise typer.BadParameter("give an id and a label, or --csv FILE")
    given = [("", name or "", label or "", note)] if file is None else _labels(file)
    labels = (*load_task(task).labels, UNCLEAR)
    for where, _, each, _ in given:
        if each not in labels:
            raise ConfigError(f"{where}label {each!r}; write one of {', '.join(labels)}")
    now = time.time()
    with closing(open_journal(url)) as store:
        count = store.annotate(
            [(entry, Annotation(None if each == UNCLEAR else each, author, now, why)) for _, entry, each, why in given]
        )
    echo(f"{count} labeled.")


@journal.command()
@filtered
def stats(
    selection: "Filter",
    url: JournalUrl = None,
    window_hours: Annotated[
        float | None, typer.Option(min=0.01, help="Also test the entries of the last hours for drift.")
    ] = None,
    reference_hours: Annotated[
        float, typer.Option(min=0.01, help="Compare them with the entries of this many hours before.")
    ] = 168.0,
    as_json: PrintJson = False,
) -> None:
    """Summarize the entries: exits, labels, accuracy, latency and compute."""
    from dataclasses import asdict

    from roadwork_serve.journal.drift_report import recent_drift
    from roadwork_serve.journal.summary import summarize

    with closing(open_journal(url)) as store:
        figures: dict[str, Any] = summarize(store.find(selection)).as_dict()
        found = None if window_hours is None else recent_drift(store, window_hours, reference_hours)
    if as_json:
        echo_json(json.dumps(figures | ({} if found is None else {"drift": asdict(found)}), indent=2))
        return
    out = console()
    for name, value in figures.items():
        shown = (
            ", ".join(f"{each} {_number(part)}" for each, part in value.items()) if isinstance(value, dict) else value
        )
        out.print(f"{name.replace('_', ' ')}: {_number(shown)}", highlight=False, markup=False)
    if found is not None:
        out.print(drift_table(found, 0.01))


journal.command()(rank)
journal.command()(sample)
journal.command()(drift)
journal.command()(export)
journal.command()(check)
journal.command()(backup)
journal.command()(restore)
journal.command()(forget)
add_state_option(journal)


def _labels(file: Path) -> list[tuple[str, str, str, str]]:
    """Return place, entry, label and note of each line of a CSV file that has a label."""
    table = read_csv(file)
    key = next((name for name in ("id", "request_id", "sha256") if name in table.columns), None)
    if key is None or "label" not in table.columns:
        present = ", ".join(table.columns) or "none"
        raise ConfigError(f"{file} needs the columns label, and id, request_id or sha256; it has {present}")
    return [(f"{file}, line {row.line}: ", row[key], row["label"], row["note"]) for row in table.rows if row["label"]]


def _file(store: "Store", row: "JournalRow") -> str | None:
    found = None if store.media_files is None else store.media_files.find(row.prediction.sha256)
    return None if found is None else str(found)


def _plain(model: "Verdict | StageReport") -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_none=True)


def _number(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {_number(each)}" for name, each in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
