"""`roadwork journal rank`, `sample` and `drift`: which entries to label. Each imports what it needs when it runs."""

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roadwork_serve.cli.options import JournalUrl, MediaFolder, PrintJson, filtered, open_journal
from roadwork_serve.table_files import check_ending
from roadwork_serve.terminal import console, echo, echo_json, foreign

if TYPE_CHECKING:
    from rich.table import Table

    from roadwork_serve.journal.active_learning import RankedRow
    from roadwork_serve.journal.drift import Drift
    from roadwork_serve.journal.filter import Filter
    from roadwork_serve.journal.store import Store


@filtered
def rank(
    selection: "Filter",
    url: JournalUrl = None,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of entries to list.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line instead of a table.")] = False,
) -> None:
    """Rank entries by informativeness: how much a human label would teach the models.

    High ranks go to entries that are near the decision threshold, that stages disagree on, that exited at a deadline,
    that a person labeled otherwise, or that are novel. Near-duplicates are listed once.
    """
    from roadwork_serve.journal.active_learning import most_informative
    from roadwork_serve.journal.novelty import reference_set

    with closing(open_journal(url)) as store:
        found = most_informative(store.find(selection), limit, reference_set(store))
    if not as_json:
        console().print(_rank_table(found))
        return
    for each in found:
        echo_json(json.dumps(_plain(each)))


@filtered
def sample(
    selection: "Filter",
    out: Annotated[Path, typer.Argument(help="CSV file to write; `roadwork journal label --csv` reads it.")],
    url: JournalUrl = None,
    folder: MediaFolder = None,
    count: Annotated[int, typer.Option(min=1, help="Number of entries to draw.")] = 200,
    informative_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of them to choose by informativeness; the rest is random.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random draw.")] = 0,
    copy_media: Annotated[
        Path | None, typer.Option(help="Folder to copy the photos and clips to, where they are stored.")
    ] = None,
) -> None:
    """Draw entries for people to label: the most informative ones, and a stratified random sample.

    The file records the probability with which each entry was drawn, so that rates can be estimated without bias.
    """
    from roadwork_serve.journal.active_learning import scored_rows
    from roadwork_serve.journal.novelty import reference_set
    from roadwork_serve.journal.sampling import sample as draw
    from roadwork_serve.journal.sampling import write_sample

    check_ending(out, (".csv",))
    with closing(open_journal(url, folder)) as store:
        rows = scored_rows(store.find(selection), reference_set(store))
        found = draw(rows, count, informative_share, seed)
        copied = sum(_copy_media(store, each.prediction.id, copy_media) for each in found.rows) if copy_media else 0
    write_sample(out, found.rows)
    random = sum(each.is_random for each in found.rows)
    echo(
        f"{len(found.rows)} of {found.predictions} entries ({found.distinct} distinct, {found.strata} strata) are in "
        f"{out}: {len(found.rows) - random} by informativeness, {random} at random."
    )
    if copy_media:
        echo(f"{copied} files are in {copy_media}.")


def drift(
    url: JournalUrl = None,
    window_hours: Annotated[float, typer.Option(min=0.01, help="Test the entries of the last hours.")] = 24.0,
    reference_hours: Annotated[
        float, typer.Option(min=0.01, help="Compare them with the entries of this many hours before.")
    ] = 168.0,
    significance: Annotated[
        float, typer.Option(min=0, max=1, help="Largest probability of a false alarm, over all tests together.")
    ] = 0.01,
    as_json: PrintJson = False,
) -> None:
    """Test whether recent traffic differs from earlier traffic: exits, scores, image features.

    The exit code is 1 if it does.
    """
    from dataclasses import asdict

    from roadwork_serve.journal.drift_report import recent_drift

    with closing(open_journal(url)) as store:
        result = recent_drift(store, window_hours, reference_hours)
    found = result.significant(significance)
    if as_json:
        echo_json(json.dumps(asdict(result) | {"significant": [shift.name for shift in found]}, indent=2))
    else:
        console().print(drift_table(result, significance))
    if found:
        raise typer.Exit(1)


def drift_table(result: "Drift", significance: float = 0.01) -> "Table":
    """Return a table with a line for each test."""
    from rich.table import Table

    found = {shift.name for shift in result.significant(significance)}
    table = Table(box=None, pad_edge=False, title=f"{result.window} entries against {result.reference} before")
    for name in ("test", "before", "now", "size", "p", ""):
        table.add_column(name, justify="left" if name in ("test", "") else "right")
    for shift in result.shifts:
        verdict = "[bold red]has changed[/]" if shift.name in found else shift.untested
        unit = " sd" if shift.name == "features" else " psi"
        p = "" if shift.p is None else f"{shift.p:.3g}"
        table.add_row(shift.name, str(shift.reference), str(shift.window), f"{shift.size:.3f}{unit}", p, verdict)
    return table


def _rank_table(found: "list[RankedRow]") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("id", "informativeness", "label", "probability", "exit", "duplicates"):
        table.add_column(name, no_wrap=True)
    table.add_column("reasons", overflow="fold")
    for each in found:
        verdict = each.row.prediction.verdict
        table.add_row(
            foreign(each.row.prediction.id),
            f"{each.score.value:.3f}",
            verdict.label,
            f"{verdict.probability:.3f}",
            verdict.exit.stage,
            str(each.duplicates),
            str(each.score),
        )
    return table


def _plain(each: "RankedRow") -> dict[str, Any]:
    prediction, verdict = each.row.prediction, each.row.prediction.verdict
    return {
        "id": prediction.id,
        "request_id": verdict.request_id,
        "filename": prediction.filename,
        "informativeness": each.score.value,
        "reasons": dict(each.score.reasons),
        "label": verdict.label,
        "probability": verdict.probability,
        "exit": verdict.exit.model_dump(),
        "duplicates": each.duplicates,
        "sha256": prediction.sha256,
        "media_available": each.row.media_available,
    }


def _copy_media(store: "Store", entry: str, folder: Path) -> bool:
    data = store.read_media(store.get(entry))
    if data is None:
        return False
    from roadwork_serve.journal.media_files import media_suffix

    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{entry}.{media_suffix(data)}").write_bytes(data)
    return True
