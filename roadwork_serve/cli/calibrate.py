"""`roadwork calibrate`, `roadwork tune`, `roadwork compare`. Each command imports what it needs when it runs."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roadwork_serve.errors import ConfigError

if TYPE_CHECKING:
    from roadwork_serve.calibration.comparison import Comparison
    from roadwork_serve.calibration.thresholds import MediaResult
    from roadwork_serve.calibration.trade_offs import TradeOff
    from roadwork_serve.calibration.trajectories import Price

RowsFile = Annotated[
    Path | None, typer.Option("--rows", help="Rows that `roadwork evaluate --ask-everyone --rows` wrote.")
]
FromJournal = Annotated[
    str | None, typer.Option("--from-journal", help="URL of a journal whose traffic was surveyed, instead of --rows.")
]
HeadFolder = Annotated[
    Path | None, typer.Option("--head", help="With a journal: stage 1 as this head would have spoken.")
]
Report = Annotated[Path | None, typer.Option("--report", help="Folder for figures and pictures.")]
TEST_SHARE = 0.6
KINDS = ("photo", "clip")


def calibrate(
    policy: Annotated[str, typer.Option(help="Policy to start from, by name or path.")],
    out: Annotated[Path, typer.Option(help="File to write the policy to.")],
    rows: RowsFile = None,
    from_journal: FromJournal = None,
    head: HeadFolder = None,
    version: Annotated[str, typer.Option(help="Of the new policy.")] = "calibrated",
    leave: Annotated[
        float, typer.Option(min=0, max=0.95, help="Share of the rows left for `tune` to test with; 0 fits to all.")
    ] = TEST_SHARE,
    report: Report = None,
) -> None:
    """Fit what each stage's word is worth: a curve each, by cross-validation, and how they add up. Bands stay.

    The rows that are left out are those that `tune` tests with when it is given the same rows.
    """
    from roadwork_serve.calibration.calibrate import calibrate as calibrated
    from roadwork_serve.calibration.policy_writer import write_policy
    from roadwork_serve.calibration.sources import load_rows, with_head
    from roadwork_serve.calibration.thresholds import holdout_mask
    from roadwork_serve.cascade.policy_file import load_policy

    base = load_policy(policy)
    given = load_rows(rows, from_journal, base, head)
    kept = [row for row, held in zip(given, holdout_mask(given, leave), strict=True) if not held]
    made, told = calibrated(kept, with_head(base, head), version)
    if not told.fits:
        raise ConfigError(f"{len(kept)} rows are too few to fit anything to, or of one class; give more, or --leave 0")
    lines = [f"{fit.media} {fit.stage}: {fit.curve}{', stacked' if fit.stacked else ''}" for fit in told.fits]
    for kind, after in told.after.items():
        before = told.before[kind]
        lines.append(
            f"{after.n} {kind}s, out of fold: log loss {before.log_loss:.4f} -> {after.log_loss:.4f}, ECE "
            f"{before.ece:.4f} -> {after.ece:.4f}, Brier {before.brier:.4f} -> {after.brier:.4f}"
        )
    used = f"Calibrated on {len(kept)} rows of {len(given)}. Bands are those of {base.version}; nothing is promised."
    write_policy(out, made, "\n".join([used, *lines]))
    if report is not None:
        from roadwork_serve.atomic_write import write_json
        from roadwork_serve.calibration.diagrams import reliability
        from roadwork_serve.calibration.reliability import by_source, reliability_panels

        drawn = reliability_panels(kept, made, told)
        reliability(drawn, report / "reliability.png")
        measured = {
            f"{panel.media} {panel.stage}": {
                "before": asdict(panel.quality_before),
                "after": asdict(panel.quality_after),
            }
            for panel in drawn
        }
        parts = {
            panel.media: {
                source: {"before": asdict(before), "after": asdict(after)}
                for source, (before, after) in by_source(kept, panel).items()
            }
            for panel in drawn
            if panel.stage == "cascade"
        }
        fits = [asdict(fit) for fit in told.fits]
        figures = {"rows": len(given), "fitted_to": len(kept), "fits": fits, "quality": measured, "by_source": parts}
        write_json(report / "calibration.json", figures)
    typer.echo("\n".join([*lines, f"Written to {out}."]))


def tune(
    policy: Annotated[str, typer.Option(help="Calibrated policy to start from, by name or path.")],
    out: Annotated[Path, typer.Option(help="File to write the policy to, with its certificate.")],
    rows: RowsFile = None,
    from_journal: FromJournal = None,
    head: HeadFolder = None,
    risk_limit: Annotated[float, typer.Option(help="Share of the traffic that exits may spoil, at most.")] = 0.01,
    confidence: Annotated[float, typer.Option(help="That the bound holds.")] = 0.95,
    flops: Annotated[bool, typer.Option("--flops", help="Save compute, at production prices; the default.")] = False,
    latency_ms: Annotated[bool, typer.Option("--latency-ms", help="Save the models' time, as measured.")] = False,
    cost: Annotated[Path | None, typer.Option(help="Save what a YAML file says a look costs, by stage.")] = None,
    limit: Annotated[
        float | None, typer.Option(min=0, help="Of a mean item's cost: GFLOP, ms, or what the file has.")
    ] = None,
    version: Annotated[str, typer.Option(help="Of the new policy.")] = "tuned",
    design: Annotated[
        Path | None, typer.Option(help="Rows that the policy was calibrated on, all of them; they test nothing.")
    ] = None,
    report: Report = None,
) -> None:
    """Find the exit bands of least cost whose extra error is bounded, with proof.

    Exit code 1 if nothing can be promised, or not within --limit; a policy is written only where something can.
    """
    from rich.console import Console

    from roadwork_serve.calibration.policy_writer import write_policy
    from roadwork_serve.calibration.sources import load_rows, with_head
    from roadwork_serve.calibration.thresholds import TuningSettings
    from roadwork_serve.calibration.thresholds import tune as tuned
    from roadwork_serve.calibration.trade_offs import trade_offs
    from roadwork_serve.cascade.policy_file import load_policy
    from roadwork_serve.evaluation.rows import read_rows

    if flops + latency_ms + (cost is not None) > 1:
        raise typer.BadParameter("give one of --flops, --latency-ms and --cost FILE")
    base = load_policy(policy)
    given = load_rows(rows, from_journal, base, head)
    base = with_head(base, head)
    drawn = None
    if design is not None:
        seen = read_rows(design)
        drawn = frozenset(row.about.name for row in seen)
        given = [*seen, *(row for row in given if row.about.name not in drawn)]
    price, unit, per = _price(latency_ms, cost)
    settings = TuningSettings(risk_limit, confidence, TEST_SHARE, drawn, version, price)
    found = tuned(given, base, settings)
    if latency_ms and not any(part.full_cost for part in found.parts):
        raise ConfigError("these rows carry no times; write them anew with `roadwork evaluate --rows`")
    lines = [_told(part, unit, per) for part in found.parts]
    promised = found.policy.certificate is not None
    dear = [part for part in found.parts if limit is not None and part.cost / per > limit]
    if promised:
        bound = f"With confidence {confidence:g} exits spoil no more than {risk_limit:.2%} of traffic like these rows."
        write_policy(out, found.policy, "\n".join([bound, *lines]))
    cases = trade_offs(given, base, settings)
    _print_cases(Console(), cases, [[step.stage for step in base.steps(kind)] for kind in KINDS])
    if report is not None:
        from roadwork_serve.atomic_write import write_json
        from roadwork_serve.calibration.diagrams import pareto
        from roadwork_serve.calibration.pareto import pareto_fronts

        drawn_fronts = pareto_fronts(given, base, found.policy, price)
        pareto(drawn_fronts, report / "pareto.png", unit, per)
        certificate = found.policy.certificate
        figures = {
            "rows": len(given),
            "unit": unit,
            "certificate": None if certificate is None else certificate.to_mapping(),
            "why_not": found.why_not,
            "parts": [asdict(part) for part in found.parts],
            "places": {front.media: [asdict(place) for place in front.places] for front in drawn_fronts},
            "what_if": [asdict(case) for case in cases],
        }
        write_json(report / "tuning.json", figures)
    lines += [found.why_not] if found.why_not else []
    lines += [f"{part.media}s cost {part.cost / per:,.4g} {unit}, more than the limit of {limit:g}" for part in dear]
    typer.echo("\n".join([*lines, f"Written to {out}." if promised else "Nothing is written."]))
    if not promised or dear:
        raise typer.Exit(1)


def compare(
    champion: Annotated[str, typer.Argument(help="Policy in force, by name or path; with --arms an arm, a or b.")],
    challenger: Annotated[str, typer.Argument(help="Policy on trial; with --arms the other arm.")],
    rows: RowsFile = None,
    from_journal: FromJournal = None,
    head: Annotated[
        Path | None, typer.Option("--head", help="With a journal: the challenger's head for stage 1.")
    ] = None,
    challenger_rows: Annotated[
        Path | None, typer.Option(help="With --rows: what the challenger's stages said of the same items.")
    ] = None,
    arms: Annotated[bool, typer.Option("--arms", help="Compare what the arms of an A/B test answered.")] = False,
    margin: Annotated[float, typer.Option(min=0, max=1, help="Accuracy that may be lost, at most.")] = 0.01,
    cheaper: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the cost that makes a change worth it.")
    ] = 0.02,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999999, help="Of the margin.")] = 0.95,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Say whether a challenger should replace the champion, and why. Exit code 0: promote, 1: keep."""
    from rich.console import Console

    from roadwork_serve.atomic_write import write_json
    from roadwork_serve.calibration.comparison import PromotionCriteria, compare_arms, compare_policies, overall
    from roadwork_serve.calibration.sources import arm_rows, load_rows, with_head
    from roadwork_serve.cascade.policy_file import load_policy
    from roadwork_serve.evaluation.rows import read_rows

    margins = PromotionCriteria(margin, cheaper, confidence)
    if arms:
        if from_journal is None or {champion, challenger} != {"a", "b"}:
            raise typer.BadParameter("with --arms give --from-journal URL, and the arms a and b in the order you mean")
        labels = load_policy("mini")  # says what is true where nobody looked, and people looked at all of these
        old_rows, new_rows = (arm_rows(from_journal, arm, labels) for arm in (champion, challenger))
        results = compare_arms(old_rows, new_rows, (f"arm {champion}", f"arm {challenger}"), margins)
    else:
        old, new = load_policy(champion), with_head(load_policy(challenger), head)
        old_rows = load_rows(rows, from_journal, old)
        new_rows = old_rows if head is None else load_rows(rows, from_journal, old, head)
        if challenger_rows is not None:
            new_rows = read_rows(challenger_rows)
        results = compare_policies(old_rows, new_rows, old, new, margins)
    verdict, why = overall(results, margins)
    _print_comparisons(Console(), results)
    typer.echo(f"{verdict}: {why}")
    if json_file is not None:
        write_json(json_file, {"verdict": verdict, "why": why, "comparisons": [asdict(each) for each in results]})
    if verdict == "keep":
        raise typer.Exit(1)


def _price(latency_ms: bool, cost: Path | None) -> "tuple[Price, str, float]":
    """What a look costs, the unit to tell it in, and how much of the price that unit is."""
    from roadwork_serve.calibration.costs import read_costs
    from roadwork_serve.calibration.trajectories import flops_cost, latency_cost

    if latency_ms:
        return latency_cost, "ms of the models", 1.0
    return (flops_cost, "GFLOP", 1e9) if cost is None else (read_costs(cost), "of cost", 1.0)


def _told(part: "MediaResult", unit: str, per: float) -> str:
    promise = part.promise
    told = "nothing is promised"
    if promise is not None:
        told = f"{promise.losses} of {promise.n} tested are lost, p {promise.p_value:.2g}"
    left = f"; {part.thinned} left out of the test to be fair" if part.thinned else ""
    saved = f"{part.full_cost / part.cost:.2f}x less than" if part.promise and part.cost else "as much as"
    return (
        f"{part.media}s: {told}{left}; an item costs {part.cost / per:,.4g} {unit}, {saved} with all stages asked; "
        f"{part.exits[0]:.1%} leave at stage 1; on all rows accuracy {part.accuracy:.4f}, of all stages together "
        f"{part.full_accuracy:.4f}"
    )


def _print_cases(console: Any, cases: "list[TradeOff]", stages: list[list[str]]) -> None:
    from rich.table import Table

    for kind, names in zip(KINDS, stages, strict=True):
        mine = [case for case in cases if case.media == kind]
        if not mine:
            continue
        heads = ("bound", "sure", "holds", "cost", "right", *names, "tested", "more rows")
        title = f"{kind}s: what other bounds would cost, beside all stages; where items would leave"
        table = Table(*heads, title=title, box=None, pad_edge=False)
        for case in mine:
            share = case.cost / case.full_cost if case.full_cost else 0.0
            tested = f"{case.n:,}" if case.holds else f"of {case.least:,}"
            more = "" if case.holds else ("none would do" if case.more is None else f"{case.more:,}")
            table.add_row(
                f"{case.risk_limit:.1%}", f"{case.confidence:g}", "yes" if case.holds else "no", f"{share:.1%}",
                f"{case.accuracy:.4f}", *(f"{left:.1%}" for left in case.exits), tested, more,
            )  # fmt: skip
        console.print(table)
    console.print("Only the bound that was asked for is promised: choose a line, and test it on rows to come.")


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
        apart = f"{result.only_champion} and {result.only_challenger} that one alone had right, McNemar"
        console.print(f"{apart if result.paired else 'unpaired, Fisher'} p {result.p_value:.3g}; {result.why}")
