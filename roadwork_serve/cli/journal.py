"""`roadwork journal`: what the server has answered, and what people say of it."""

import csv
import json
import time
from contextlib import closing
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roadwork_serve.cli.options import (
    Arm,
    Caller,
    Degraded,
    High,
    Key,
    Kind,
    Label,
    Low,
    Marked,
    Media,
    Policy,
    Reason,
    Since,
    Stage,
    Surveyed,
    Until,
    Url,
    opened,
    wanted,
)
from roadwork_serve.errors import ConfigError

if TYPE_CHECKING:
    from roadwork_serve.journal.record import JournalRow
    from roadwork_serve.journal.store import Store
    from roadwork_serve.schema import StageReport, Verdict

journal = typer.Typer(no_args_is_help=True, help="What the server has answered, and what people say of it.")

Limit = Annotated[int | None, typer.Option(min=1, help="So many at most.")]


class Format(StrEnum):
    """What to export to."""

    csv = "csv"
    parquet = "parquet"
    fiftyone = "fiftyone"


@journal.command("ls")
def list_answers(
    url: Url = None,
    since: Since = None,
    until: Until = None,
    label: Label = None,
    exit_stage: Stage = None,
    reason: Reason = None,
    policy: Policy = None,
    arm: Arm = None,
    media: Kind = None,
    key: Key = None,
    caller: Caller = None,
    low: Low = None,
    high: High = None,
    degraded: Degraded = None,
    marked: Marked = None,
    audited: Surveyed = None,
    limit: Limit = 20,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line.")] = False,
) -> None:
    """List answers, the newest first."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from roadwork_serve.journal.export import export_row

    asked = wanted(
        since, until, label=label, exit_stage=exit_stage, reason=reason, policy=policy, arm=arm, media=media, key=key,
        caller=caller, low=low, high=high, degraded=degraded, marked=marked, audited=audited,
    )  # fmt: skip
    table = Table("at", "id", "media", "label", "P", "left at", "policy", "said by people", box=None)
    with closing(opened(url)) as store:
        for case in store.find(asked, limit, newest_first=True):
            values = export_row(case)
            if as_json:
                typer.echo(json.dumps(values, default=datetime.isoformat))
                continue
            at = values["at"].strftime("%Y-%m-%d %H:%M:%S")
            left = f"{values['exit_stage']}{', degraded' if values['degraded'] else ''}"
            table.add_row(
                at, escape(case.entry.id), values["media"], values["label"], f"{values['probability']:.3f}", left,
                escape(values["policy"]), values["mark"] or "",
            )  # fmt: skip
        if not as_json:
            Console().print(table)
            typer.echo(f"{store.count(asked):,} in all.")


@journal.command()
def show(
    name: Annotated[str, typer.Argument(help="Id of the answer, its request id, or the SHA-256 of its file.")],
    url: Url = None,
    folder: Media = None,
) -> None:
    """Print everything that is known of an answer, as JSON."""
    with closing(opened(url, folder)) as store:
        case = store.case(name)
        file = _file(store, case)
    entry, mark = case.entry, case.mark
    known: dict[str, Any] = {
        "id": entry.id,
        "at": datetime.fromtimestamp(entry.at_s, UTC).isoformat(),
        "origin": entry.origin,
        "caller": entry.caller,
        "key": entry.key,
        "policy_revision": entry.policy_revision,
        "sha256": entry.sha256,
        "size": entry.size,
        "file": file,
        "features": None if entry.features is None else {"shape": entry.features.shape, "of": entry.features_model},
        "audit": entry.audit,
        "verdict": _plain(entry.verdict),
        "said_beside": None if case.audit is None else [_plain(report) for report in case.audit],
        "shadows": [_plain(verdict) for verdict in case.shadows],
        "mark": None
        if mark is None
        else {
            "label": mark.label or "unclear",
            "by": mark.by,
            "at": datetime.fromtimestamp(mark.at_s, UTC).isoformat(),
            "note": mark.note,
        },
    }
    typer.echo(json.dumps(known, indent=2))


@journal.command("label")
def label_answers(
    name: Annotated[
        str | None, typer.Argument(help="Id of the answer, its request id, or the SHA-256 of its file.")
    ] = None,
    label: Annotated[str | None, typer.Argument(help="roadwork, none or unclear.")] = None,
    by: Annotated[str, typer.Option(envvar="USER", help="Who says so.")] = "somebody",
    note: Annotated[str, typer.Option(help="Why.")] = "",
    file: Annotated[
        Path | None, typer.Option("--csv", help="Many: columns label, and id, request_id or sha256.")
    ] = None,
    url: Url = None,
) -> None:
    """Say what is true of answers. The last word counts; what came before is kept."""
    from roadwork_serve.journal.record import Annotation
    from roadwork_serve.journal.store import LABELS

    if (file is None) == (name is None or label is None) or (file is not None and name is not None):
        raise typer.BadParameter("give an id and a label, or --csv FILE")
    said = [("", name or "", label or "", note)] if file is None else _labels(file)
    for where, _, each, _ in said:
        if each not in LABELS:
            raise ConfigError(f"{where}label {each!r}; write one of {', '.join(LABELS)}")
    now = time.time()
    with closing(opened(url)) as store:
        count = store.mark([(of, Annotation(LABELS[each], by, now, why)) for _, of, each, why in said])
    typer.echo(f"{count} labelled.")


@journal.command()
def stats(
    url: Url = None,
    since: Since = None,
    until: Until = None,
    policy: Policy = None,
    media: Kind = None,
    window: Annotated[float | None, typer.Option(min=0.01, help="Look for drift in the last so many hours.")] = None,
    reference: Annotated[float, typer.Option(min=0.01, help="Against so many hours before the window.")] = 168.0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what the answers come to, and whether the traffic has changed."""
    from dataclasses import asdict

    from rich.console import Console

    from roadwork_serve.cli.sample import drift_of, drift_table
    from roadwork_serve.journal.summary import summary

    with closing(opened(url)) as store:
        told: dict[str, Any] = summary(store.find(wanted(since, until, policy=policy, media=media))).told()
        shifted = None if window is None else drift_of(store, window, reference)
    if as_json:
        typer.echo(json.dumps(told | ({} if shifted is None else {"drift": asdict(shifted)}), indent=2))
        return
    console = Console()
    for name, value in told.items():
        shown = (
            ", ".join(f"{each} {_number(part)}" for each, part in value.items()) if isinstance(value, dict) else value
        )
        console.print(f"{name.replace('_', ' ')}: {_number(shown)}", highlight=False, markup=False)
    if shifted is not None:
        console.print(drift_table(shifted, 0.01))


@journal.command()
def export(
    out: Annotated[Path, typer.Argument(help="File, or with --to fiftyone a folder, to write.")],
    to: Annotated[Format, typer.Option("--to", help="csv, parquet, or a folder for FiftyOne.")] = Format.csv,
    url: Url = None,
    folder: Media = None,
    since: Since = None,
    until: Until = None,
    label: Label = None,
    exit_stage: Stage = None,
    reason: Reason = None,
    policy: Policy = None,
    arm: Arm = None,
    media: Kind = None,
    key: Key = None,
    caller: Caller = None,
    low: Low = None,
    high: High = None,
    degraded: Degraded = None,
    marked: Marked = None,
    audited: Surveyed = None,
    limit: Limit = None,
    name: Annotated[str, typer.Option(help="Of the FiftyOne data set.")] = "roadwork",
    push: Annotated[
        bool, typer.Option("--push", help="Then import it into FiftyOne, where that is installed.")
    ] = False,
) -> None:
    """Write answers as a table, or as a data set that FiftyOne imports."""
    asked = wanted(
        since, until, label=label, exit_stage=exit_stage, reason=reason, policy=policy, arm=arm, media=media, key=key,
        caller=caller, low=low, high=high, degraded=degraded, marked=marked, audited=audited,
    )  # fmt: skip
    if push and to is not Format.fiftyone:
        raise typer.BadParameter("--push goes with --to fiftyone")
    with closing(opened(url, folder)) as store:
        cases = store.find(asked, limit)
        if to is Format.fiftyone:
            from roadwork_serve.journal.fiftyone import write_dataset
            from roadwork_serve.journal.novelty import reference_set

            made = write_dataset(out, cases, store.media, name, reference_set(store))
            typer.echo(f"{made.photos} photos and {made.clips} clips are in {out}; {made.without_file} have no file.")
        else:
            from roadwork_serve.journal.export import write_csv, write_parquet

            count = (write_csv if to is Format.csv else write_parquet)(out, cases)
            typer.echo(f"{count:,} answers are in {out}")
    if push:
        from roadwork_serve.journal.fiftyone import push as imported

        typer.echo(f"FiftyOne has {imported(out)}.")


def _labels(file: Path) -> list[tuple[str, str, str, str]]:
    """Where it stands, of which answer, label and note of each line that has a label."""
    found: list[tuple[str, str, str, str]] = []
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            lines = csv.DictReader(text)
            columns = lines.fieldnames or ()
            of = next((name for name in ("id", "request_id", "sha256") if name in columns), None)
            if of is None or "label" not in columns:
                had = ", ".join(columns) or "none"
                raise ConfigError(f"{file} needs the columns label, and id, request_id or sha256; it has {had}")
            for line in lines:
                where = f"{file}, line {lines.line_num}: "
                if label := (line["label"] or "").strip():
                    found.append((where, (line[of] or "").strip(), label, line.get("note") or ""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    return found


def _file(store: "Store", case: "JournalRow") -> str | None:
    if store.files is None or not case.kept:
        return None
    found = sorted((store.files.folder / case.entry.sha256[:2]).glob(f"{case.entry.sha256}.*"))
    return str(found[0]) if found else None


def _plain(told: "Verdict | StageReport") -> dict[str, Any]:
    return told.model_dump(mode="json", exclude_none=True)


def _number(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {_number(each)}" for name, each in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
