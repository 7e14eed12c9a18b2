"""What the commands that look into the journal have in common: which journal is meant, and which of its answers.

Each imports what it needs when it runs.
"""

import os
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from roadwork_serve.errors import ConfigError

if TYPE_CHECKING:
    from roadwork_serve.journal.filter import Filter
    from roadwork_serve.journal.store import Store

VARIABLE, PASSWORD_VARIABLE = "ROADWORK_JOURNAL", "ROADWORK_JOURNAL_PASSWORD"
DEFAULT = "sqlite:///build/journal/journal.db"
_SQLITE = "sqlite:///"
_UNITS_S = {"m": 60, "h": 3600, "d": 86400}

Url = Annotated[
    str | None,
    typer.Option("--journal", help=f"URL of the journal; by default what {VARIABLE} says, else {DEFAULT}."),
]
Media = Annotated[
    Path | None, typer.Option("--media-folder", help="Where its files are; beside a SQLite journal by default.")
]
Since = Annotated[str | None, typer.Option(help="From then on: ISO 8601, or 90m, 24h, 7d ago.")]
Until = Annotated[str | None, typer.Option(help="Before then.")]
Label = Annotated[Literal["roadwork", "none"] | None, typer.Option(help="Answered so.")]
Stage = Annotated[
    Literal["backbone", "signs", "vlm", "reasoner", "video"] | None, typer.Option("--exit", help="Left at this stage.")
]
Reason = Annotated[
    Literal["above_band", "below_band", "last_stage", "deadline", "failed"] | None, typer.Option(help="Left so.")
]
Policy = Annotated[str | None, typer.Option(help="Under the policy of this version.")]
Arm = Annotated[Literal["a", "b"] | None, typer.Option(help="In this arm of an A/B test.")]
Kind = Annotated[Literal["photo", "clip"] | None, typer.Option("--media", help="Of this kind.")]
Key = Annotated[str | None, typer.Option(help="With this X-Request-Key.")]
Caller = Annotated[str | None, typer.Option(help="Asked with the API key of this name.")]
Low = Annotated[float | None, typer.Option(min=0, max=1, help="Probability from here up.")]
High = Annotated[float | None, typer.Option(min=0, max=1, help="Probability up to here.")]
Degraded = Annotated[bool | None, typer.Option("--degraded/--whole", help="A stage was missed, or none was.")]
Marked = Annotated[
    bool | None, typer.Option("--labelled/--unlabelled", help="A person has said something, or nobody has.")
]
Surveyed = Annotated[bool | None, typer.Option("--surveyed/--not-surveyed", help="Every stage has judged it, or not.")]


def opened(url: str | None, folder: Path | None = None) -> "Store":
    """The journal that is meant. Raises ConfigError where its file is not there, for reading makes none."""
    from roadwork_serve.journal.store import Store

    where = url or os.environ.get(VARIABLE) or DEFAULT
    if where.startswith(_SQLITE):
        file = Path(where.removeprefix(_SQLITE))
        if not file.is_file():
            raise ConfigError(
                f"there is no journal {file}; `roadwork serve` writes one, or name another with --journal"
            )
        folder = folder or file.parent / "media"
    return Store.open(where, os.environ.get(PASSWORD_VARIABLE), media_folder=folder)


def wanted(since: str | None = None, until: str | None = None, **fields: Any) -> "Filter":
    """The answers between two times that are as the fields of Filter say."""
    from roadwork_serve.journal.filter import Filter

    since_s, until_s = (None if text is None else seconds(text) for text in (since, until))
    return Filter(since_s=since_s, until_s=until_s, **fields)


def seconds(text: str) -> float:
    """Since 1970: of ISO 8601, in local time where it names no zone, or of so long ago. Raises ConfigError."""
    if text[-1:] in _UNITS_S and text[:-1].replace(".", "", 1).isdecimal():
        return time.time() - float(text[:-1]) * _UNITS_S[text[-1]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ConfigError(f"{text!r} is no time; write 2026-11-23T08:00, or 90m, 24h, 7d for so long ago") from None
