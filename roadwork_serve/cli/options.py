"""Options that several commands share, so that each means the same everywhere.

The functions import what they need when they run, so that `--help` stays instant.
"""

import functools
import inspect
import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from roadwork_serve.errors import ConfigError
from roadwork_serve.state_folder import VARIABLE

if TYPE_CHECKING:
    from roadwork_serve.journal.filter import Filter
    from roadwork_serve.journal.store import Store

JOURNAL_VARIABLE = "ROADWORK_JOURNAL"
DEFAULT_HOLDOUT = 0.6
LOCAL_SERVER = "http://127.0.0.1:8000"
_UNITS_S = {"m": 60, "h": 3600, "d": 86400}

ProfileName = Annotated[
    str, typer.Option("--profile", help="Profile to use: the name of one that ships with the project, or a path.")
]
TaskName = Annotated[
    str, typer.Option("--task", help="Task that names the labels: one that ships with the project, or the path of one.")
]
DEFAULT_TASK = "roadwork"
PolicyName = Annotated[
    str | None,
    typer.Option("--policy", help="Policy to use: a name or a path. By default the one that the profile names."),
]
ServerUrl = Annotated[
    str,
    typer.Option("--server", help="URL of the server. The API key is read from ROADWORK_API_KEY.", metavar="URL"),
]
JournalUrl = Annotated[
    str | None,
    typer.Option(
        "--journal",
        help=f"URL of the journal. By default the one in {JOURNAL_VARIABLE}, else that in the state folder.",
        metavar="URL",
    ),
]
StateFolder = Annotated[
    Path | None,
    typer.Option("--state", help=f"Folder of the server's data. By default {VARIABLE}, else the user's own."),
]
JournalSource = Annotated[
    str | None,
    typer.Option(
        "--journal", help="Use the predictions in the journal at this URL. Give this or --rows.", metavar="URL"
    ),
]
MediaFolder = Annotated[
    Path | None,
    typer.Option("--media-folder", help="Folder of the journal's photos and clips. By default media/ beside SQLite."),
]
PrintJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ReportFile = Annotated[Path | None, typer.Option("--report", help="Write the full results to this JSON file.")]
ReportFolder = Annotated[
    Path | None, typer.Option("--report-folder", help="Write the full results and diagrams to this folder.")
]
RowsFile = Annotated[
    Path | None,
    typer.Option(
        "--rows",
        help="Use the predictions in this file, written by `roadwork evaluate --all-stages --rows FILE`. Give this or "
        "--journal.",
    ),
]
StageOneHead = Annotated[
    Path | None,
    typer.Option("--head", help="Folder of a new head, whose predictions replace those of stage 1. Needs --journal."),
]
RiskLimit = Annotated[
    float, typer.Option(min=0, max=1, help="Largest share of items that may get a wrong label because they exit early.")
]
Confidence = Annotated[float, typer.Option(min=0, max=1, help="Confidence with which the bound must hold.")]
MinGain = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="Gain of accuracy that is worth more compute, however much: 0.05 for five points, which must be certain "
        "with the confidence. By default none is, and you decide.",
    ),
]
LabeledData = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="Labeled data; repeat for more. A folder with roadwork/ and none/ or a manifest.csv, a CSV file with the "
        "columns file and label, natix:FILE.parquet, coco:ANNOTATIONS.json, or scenes:COUNT:SEED.",
    ),
]


def open_journal(url: str | None, folder: Path | None = None) -> "Store":
    """Open an existing journal. Raises ConfigError when its SQLite file is missing, since reading creates none."""
    from roadwork_serve.journal.store import PASSWORD_VARIABLE, Store
    from roadwork_serve.profiles.journal import sqlite_file

    where = journal_url(url)
    if (file := sqlite_file(where)) is not None:
        if not file.is_file():
            raise ConfigError(
                f"there is no journal {file}; `roadwork serve` writes one, or name another with --journal or --state"
            )
        folder = folder or file.parent / "media"
    return Store.open(where, os.environ.get(PASSWORD_VARIABLE), media_folder=folder)


def journal_url(url: str | None) -> str:
    """Return the URL that the options name, with an absolute path; by default of the journal in the state folder."""
    from roadwork_serve.profiles.journal import DEFAULT_URL, resolve_url

    return resolve_url(url or os.environ.get(JOURNAL_VARIABLE) or DEFAULT_URL)


def add_state_option(group: typer.Typer) -> None:
    """Give every command of a group the option --state, and let only this user read what it writes."""
    for each in group.registered_commands:
        if each.callback is not None:
            each.callback = _with_state(each.callback)


def _with_state(command: Callable[..., None]) -> Callable[..., None]:
    own = inspect.signature(command).parameters.values()

    @functools.wraps(command)
    def run(*, state: Path | None, **given: Any) -> None:
        if state is not None:
            os.environ[VARIABLE] = str(state.absolute())
        mask = os.umask(0o077)
        try:
            command(**given)
        finally:
            os.umask(mask)

    added = inspect.Parameter("state", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=StateFolder)
    parameters = [*(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own), added]
    vars(run)["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def journal_filter(
    since: Annotated[
        str | None, typer.Option(help="Only entries from this time on: ISO 8601, or an age such as 90m, 24h or 7d.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only entries before this time; written like --since.")] = None,
    label: Annotated[
        str | None, typer.Option(help="Filter by predicted label: roadwork or none, or a label of another task.")
    ] = None,
    exit_stage: Annotated[str | None, typer.Option(help="Filter by exit stage, such as backbone.")] = None,
    exit_reason: Annotated[
        Literal["above_band", "below_band", "last_stage", "deadline", "failed"] | None,
        typer.Option(help="Filter by exit reason."),
    ] = None,
    policy_version: Annotated[str | None, typer.Option(help="Filter by the version of the policy.")] = None,
    arm: Annotated[Literal["a", "b"] | None, typer.Option(help="Filter by the arm of an A/B test.")] = None,
    media: Annotated[Literal["photo", "clip"] | None, typer.Option(help="Filter by media type.")] = None,
    request_key: Annotated[str | None, typer.Option(help="Filter by the X-Request-Key that the client sent.")] = None,
    filename: Annotated[str | None, typer.Option(help="Filter by the file name that the client sent.")] = None,
    caller: Annotated[str | None, typer.Option(help="Filter by the name of the client's API key.")] = None,
    min_probability: Annotated[
        float | None, typer.Option(min=0, max=1, help="Only entries with at least this probability.")
    ] = None,
    max_probability: Annotated[
        float | None, typer.Option(min=0, max=1, help="Only entries with at most this probability.")
    ] = None,
    degraded: Annotated[
        bool | None,
        typer.Option("--degraded/--complete", help="Only entries that lack a stage which failed, or only the others."),
    ] = None,
    labeled: Annotated[
        bool | None, typer.Option("--labeled/--unlabeled", help="Only entries with a human label, or without one.")
    ] = None,
    audited: Annotated[
        bool | None,
        typer.Option("--audited/--not-audited", help="Only entries on which an audit ran every stage, or the others."),
    ] = None,
) -> "Filter":
    """Return the conditions that the options describe. Raises ConfigError for the name of no stage."""
    from roadwork_serve.journal.filter import Filter
    from roadwork_serve.profiles.stage_kinds import stage_names

    if exit_stage is not None and exit_stage not in stage_names():
        raise ConfigError(f"--exit-stage {exit_stage!r} is no stage; write one of {', '.join(stage_names())}")
    return Filter(
        since_s=None if since is None else timestamp_s(since),
        until_s=None if until is None else timestamp_s(until),
        label=label,
        exit_stage=exit_stage,
        exit_reason=exit_reason,
        policy_version=policy_version,
        arm=arm,
        media=media,
        key=request_key,
        filename=filename,
        caller=caller,
        min_probability=min_probability,
        max_probability=max_probability,
        degraded=degraded,
        labeled=labeled,
        audited=audited,
    )


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `journal_filter` in place of its parameter `selection`."""
    options = inspect.signature(journal_filter).parameters
    own = [each for name, each in inspect.signature(command).parameters.items() if name != "selection"]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        selection = journal_filter(**{name: given.pop(name) for name in options})
        command(selection=selection, **given)

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *options.values())]
    vars(run)["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def timestamp_s(text: str) -> float:
    """Return seconds since 1970 for ISO 8601, in local time if it names no zone, or for an age such as 24h."""
    if text[-1:] in _UNITS_S and text[:-1].replace(".", "", 1).isdecimal():
        return time.time() - float(text[:-1]) * _UNITS_S[text[-1]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ConfigError(f"{text!r} is no time; write 2026-11-23T08:00, or an age such as 90m, 24h or 7d") from None
