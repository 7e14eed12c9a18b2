"""`roadwork compare`. It imports what it needs when it runs."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roadwork_serve.cli.options import Confidence, JournalSource, MinGain, ReportFile, RowsFile
from roadwork_serve.terminal import console, echo

if TYPE_CHECKING:
    from roadwork_serve.calibration.comparison import Comparison


def compare(
    champion: Annotated[str, typer.Argument(help="Active policy, by name or path; with --arms an arm, a or b.")],
    challenger: Annotated[str, typer.Argument(help="Candidate policy, by name or path; with --arms the other arm.")],
    rows: RowsFile = None,
    journal: JournalSource = None,
    head: Annotated[
        Path | None, typer.Option(help="Folder of the challenger's head for stage 1; needs --journal.")
    ] = None,
    challenger_rows: Annotated[
        Path | None, typer.Option(help="Rows of the same items as --rows, with the challenger's models.")
    ] = None,
    arms: Annotated[
        bool, typer.Option("--arms", help="Compare the arms of an A/B test that the journal recorded.")
    ] = False,
    margin: Annotated[float, typer.Option(min=0, max=1, help="Largest loss of accuracy that is acceptable.")] = 0.01,
    min_saving: Annotated[
        float, typer.Option(min=0, max=1, help="Smallest share of the cost that justifies a change by itself.")
    ] = 0.02,
    min_gain: MinGain = 1.0,
    confidence: Confidence = 0.95,
    report: ReportFile = None,
) -> None:
    """Decide whether a new policy (challenger) should replace the active one (champion), and say why.

    The exit code is 0 for promote and 1 for keep.
    """
    from roadwork_serve.atomic_write import write_json
    from roadwork_serve.calibration.comparison import PromotionCriteria, compare_arms, compare_policies, overall
    from roadwork_serve.calibration.sources import arm_rows, load_rows, with_head
    from roadwork_serve.cascade.policy_file import load_policy
    from roadwork_serve.evaluation.rows import read_rows

    criteria = PromotionCriteria(margin, min_saving, confidence, min_gain)
    if arms:
        if journal is None or {champion, challenger} != {"a", "b"}:
            raise typer.BadParameter("with --arms give --journal URL, and the arms a and b in the order you mean")
        labels = load_policy("mini")  # labels entries without a human label; all of these have one
        old_rows, new_rows = (arm_rows(journal, arm, labels) for arm in (champion, challenger))
        results = compare_arms(old_rows, new_rows, (f"arm {champion}", f"arm {challenger}"), criteria)
    else:
        old, new = load_policy(champion), with_head(load_policy(challenger), head)
        old_rows = load_rows(rows, journal, old)
        new_rows = old_rows if head is None else load_rows(rows, journal, old, head)
        if challenger_rows is not None:
            new_rows = read_rows(challenger_rows)
        results = compare_policies(old_rows, new_rows, old, new, criteria)
    verdict, why = overall(results, criteria)
    _print_comparisons(console(), results)
    echo(f"{verdict}: {why}")
    if report is not None:
        write_json(report, {"verdict": verdict, "why": why, "comparisons": [asdict(each) for each in results]})
    if verdict == "keep":
        raise typer.Exit(1)


def _print_comparisons(console: Any, results: "list[Comparison]") -> None:
    from rich.markup import escape
    from rich.table import Table

    for result in results:
        heads = (f"{result.media}s", "n", "accuracy", "Brier", "ECE", "GFLOP", "model ms")
        table = Table(*heads, box=None, pad_edge=False)
        for role, side in (("champion", result.champion), ("challenger", result.challenger)):
            numbers = (f"{side.accuracy:.4f}", f"{side.brier:.4f}", f"{side.ece:.4f}", f"{side.cost / 1e9:,.0f}")
            table.add_row(f"{role} {escape(side.name)}", f"{side.n:,}", *numbers, f"{side.ms:.1f}")
        console.print(table)
        paired = f"{result.only_champion} and {result.only_challenger} that only one got right, McNemar"
        console.print(f"{paired if result.paired else 'unpaired, Fisher'} p {result.p_value:.3g}; {result.reason}")
