"""`roadwork journal hard` and `sample`, and what `stats` tells of drift. Each imports what it needs when it runs."""

import json
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roadwork_serve.cli.options import Key, Kind, Marked, Media, Policy, Since, Until, Url, opened, wanted

if TYPE_CHECKING:
    from rich.table import Table

    from roadwork_serve.journal.active_learning import RankedRow
    from roadwork_serve.journal.drift import Drift
    from roadwork_serve.journal.store import Store

_HOUR_S = 3600.0


def hard(
    url: Url = None,
    since: Since = None,
    until: Until = None,
    policy: Policy = None,
    media: Kind = None,
    key: Key = None,
    marked: Marked = None,
    count: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line.")] = False,
) -> None:
    """The answers that teach most: close, contested, cut short, contradicted, or of something new. No picture twice."""
    from rich.console import Console

    from roadwork_serve.journal.active_learning import most_informative
    from roadwork_serve.journal.novelty import reference_set

    asked = wanted(since, until, policy=policy, media=media, key=key, marked=marked)
    with closing(opened(url)) as store:
        found = most_informative(store.find(asked), count, reference_set(store))
    if not as_json:
        Console().print(_hard_table(found))
        return
    for each in found:
        typer.echo(json.dumps(_told(each)))


def sample(
    out: Annotated[Path, typer.Argument(help="CSV to write, for `roadwork journal label --csv`.")],
    url: Url = None,
    folder: Media = None,
    since: Since = None,
    until: Until = None,
    policy: Policy = None,
    media: Kind = None,
    key: Key = None,
    marked: Marked = None,
    count: Annotated[int, typer.Option(min=1, help="Answers that people can look at.")] = 200,
    hard_share: Annotated[float, typer.Option(min=0, max=1, help="Share of them that are the hardest.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Of the lots; the same seed draws the same.")] = 0,
    pictures: Annotated[Path | None, typer.Option(help="Folder to copy their files to, where they are kept.")] = None,
) -> None:
    """Draw answers for people to label: part the hardest, part by lot in strata, with the chance each was drawn by."""
    from roadwork_serve.journal.active_learning import scored_rows
    from roadwork_serve.journal.novelty import reference_set
    from roadwork_serve.journal.sampling import sample as drawn
    from roadwork_serve.journal.sampling import write_sample

    asked = wanted(since, until, policy=policy, media=media, key=key, marked=marked)
    with closing(opened(url, folder)) as store:
        cases = scored_rows(store.find(asked), reference_set(store))
        found = drawn(cases, count, hard_share, seed)
        written = sum(_write_picture(store, each.entry.id, pictures) for each in found.drawn) if pictures else 0
    write_sample(out, found.drawn)
    chance = sum(each.by_chance for each in found.drawn)
    typer.echo(
        f"{len(found.drawn)} of {found.answers} answers ({found.distinct} that differ, {found.strata} strata) are in "
        f"{out}: {len(found.drawn) - chance} for their hardness, {chance} by lot."
    )
    if pictures:
        typer.echo(f"{written} files are in {pictures}.")


def drift(
    url: Url = None,
    window: Annotated[float, typer.Option(min=0.01, help="The last so many hours.")] = 24.0,
    reference: Annotated[float, typer.Option(min=0.01, help="Against so many hours before the window.")] = 168.0,
    level: Annotated[float, typer.Option(min=0, max=1, help="Chance of a false alarm.")] = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Whether the last answers are other than those before: exits, scores, pictures. Exit code 1 where they are."""
    from dataclasses import asdict

    from rich.console import Console

    with closing(opened(url)) as store:
        told = drift_of(store, window, reference)
    found = told.found(level)
    if as_json:
        typer.echo(json.dumps(asdict(told) | {"found": [shift.what for shift in found]}, indent=2))
    else:
        Console().print(drift_table(told, level))
    if found:
        raise typer.Exit(1)


def drift_of(store: "Store", hours: float = 24.0, before: float = 168.0, now_s: float | None = None) -> "Drift":
    """The last hours against those before them, without what repeats."""
    from roadwork_serve.journal.drift import drift as compared
    from roadwork_serve.journal.duplicates import without_duplicates
    from roadwork_serve.journal.filter import Filter

    now = time.time() if now_s is None else now_s
    start = now - hours * _HOUR_S
    reference = store.find(Filter(since_s=start - before * _HOUR_S, until_s=start))
    return compared(without_duplicates(reference), without_duplicates(store.find(Filter(since_s=start, until_s=now))))


def drift_table(told: "Drift", level: float = 0.01) -> "Table":
    """One line for each thing that may have changed."""
    from rich.table import Table

    found = {shift.what for shift in told.found(level)}
    table = Table(box=None, pad_edge=False, title=f"{told.window} answers against {told.reference} before")
    for name in ("what", "before", "now", "size", "p", ""):
        table.add_column(name, justify="left" if name in ("what", "") else "right")
    for shift in told.shifts:
        verdict = "[bold red]has changed[/]" if shift.what in found else shift.untold
        unit = " sd" if shift.what == "features" else " psi"
        p = "" if shift.p is None else f"{shift.p:.3g}"
        table.add_row(shift.what, str(shift.reference), str(shift.window), f"{shift.size:.3f}{unit}", p, verdict)
    return table


def _hard_table(found: "list[RankedRow]") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("answer", "hardness", "said", "P(roadwork)", "left at", "like it"):
        table.add_column(name, no_wrap=True)
    table.add_column("because", overflow="fold")
    for each in found:
        verdict = each.case.entry.verdict
        table.add_row(
            escape(each.case.entry.id),
            f"{each.score.value:.3f}",
            verdict.label,
            f"{verdict.probability:.3f}",
            verdict.exit.stage,
            str(each.repeats),
            str(each.score),
        )
    return table


def _told(each: "RankedRow") -> dict[str, Any]:
    entry, verdict = each.case.entry, each.case.entry.verdict
    return {
        "id": entry.id,
        "request_id": verdict.request_id,
        "hardness": each.score.value,
        "reasons": dict(each.score.reasons),
        "label": verdict.label,
        "probability": verdict.probability,
        "exit": verdict.exit.model_dump(),
        "repeats": each.repeats,
        "sha256": entry.sha256,
        "kept": each.case.kept,
    }


def _write_picture(store: "Store", name: str, folder: Path) -> bool:
    case = store.case(name)
    data = store.media(case)
    if data is None:
        return False
    from roadwork_serve.journal.fiftyone import suffix

    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.{suffix(data)}").write_bytes(data)
    return True
