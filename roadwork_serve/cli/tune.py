"""`roadwork tune`. It imports what it needs when it runs."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roadwork_serve.cli.options import (
    DEFAULT_HOLDOUT,
    Confidence,
    JournalSource,
    ReportFolder,
    RiskLimit,
    RowsFile,
    StageOneHead,
)
from roadwork_serve.errors import ConfigError
from roadwork_serve.terminal import console, echo

if TYPE_CHECKING:
    from roadwork_serve.calibration.thresholds import MediaResult
    from roadwork_serve.calibration.trade_offs import TradeOff
    from roadwork_serve.calibration.trajectories import CostFunction

_KINDS = ("photo", "clip")


def tune(
    policy: Annotated[str, typer.Option(help="Calibrated policy to start from, by name or path.")],
    out: Annotated[Path, typer.Option(help="Policy file to write, with its certificate.")],
    rows: RowsFile = None,
    journal: JournalSource = None,
    head: StageOneHead = None,
    risk_limit: RiskLimit = 0.01,
    confidence: Confidence = 0.95,
    flops: Annotated[
        bool, typer.Option("--flops", help="Minimize compute, at the size of the production models; the default.")
    ] = False,
    latency: Annotated[bool, typer.Option("--latency", help="Minimize the measured inference time.")] = False,
    costs: Annotated[
        Path | None, typer.Option(help="Minimize a cost of your own: a YAML file with the cost of each stage.")
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(min=0, help="Fail if the mean cost of an item is above this: GFLOP, ms, or as in --costs."),
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the new policy.")] = "tuned",
    calibration_rows: Annotated[
        Path | None,
        typer.Option(help="All rows that the policy was calibrated on. They choose bands, and are not tested with."),
    ] = None,
    report_folder: ReportFolder = None,
) -> None:
    """Find the cheapest exit bands whose early-exit error is provably bounded.

    A policy is written only if the bound was proven for some media type. The exit code is 1 if it was not, or if the
    policy costs more than --max-cost.
    """
    from roadwork_serve.calibration.policy_writer import write_policy
    from roadwork_serve.calibration.sources import load_rows, with_head
    from roadwork_serve.calibration.thresholds import TuningSettings
    from roadwork_serve.calibration.thresholds import tune as search
    from roadwork_serve.calibration.trade_offs import trade_offs
    from roadwork_serve.cascade.policy_file import load_policy
    from roadwork_serve.evaluation.rows import read_rows

    if flops + latency + (costs is not None) > 1:
        raise typer.BadParameter("give one of --flops, --latency and --costs FILE")
    base = load_policy(policy)
    given = load_rows(rows, journal, base, head)
    base = with_head(base, head)
    names = None
    if calibration_rows is not None:
        seen = read_rows(calibration_rows)
        names = frozenset(row.metadata.name for row in seen)
        given = [*seen, *(row for row in given if row.metadata.name not in names)]
    price, unit, per = _price(latency, costs)
    settings = TuningSettings(risk_limit, confidence, DEFAULT_HOLDOUT, names, version, price)
    found = search(given, base, settings)
    if latency and not any(part.full_cost for part in found.parts):
        raise ConfigError("these rows carry no times; write new ones with `roadwork evaluate --rows`")
    lines = [_summary(part, unit, per) for part in found.parts]
    proven = found.policy.certificate is not None
    expensive = [part for part in found.parts if max_cost is not None and part.cost / per > max_cost]
    if proven:
        bound = (
            f"With confidence {confidence:g}, early exits mislabel no more than {risk_limit:.2%} of traffic like these "
            "rows."
        )
        write_policy(out, found.policy, "\n".join([bound, *lines]))
    options = trade_offs(given, base, settings)
    _print_trade_offs(console(), options, [[step.stage for step in base.steps(kind)] for kind in _KINDS])
    if report_folder is not None:
        from roadwork_serve.atomic_write import write_json
        from roadwork_serve.calibration.diagrams import pareto
        from roadwork_serve.calibration.pareto import pareto_fronts

        fronts = pareto_fronts(given, base, found.policy, price)
        pareto(fronts, report_folder / "pareto.png", unit, per)
        certificate = found.policy.certificate
        figures = {
            "rows": len(given),
            "unit": unit,
            "certificate": None if certificate is None else certificate.to_mapping(),
            "shortfall": found.shortfall,
            "parts": [asdict(part) for part in found.parts],
            "points": {front.media: [asdict(point) for point in front.points] for front in fronts},
            "trade_offs": [asdict(option) for option in options],
        }
        write_json(report_folder / "tuning.json", figures)
    lines += [found.shortfall] if found.shortfall else []
    lines += [
        f"{part.media}s cost {part.cost / per:,.4g} {unit}, more than the limit of {max_cost:g}" for part in expensive
    ]
    echo("\n".join([*lines, f"Written to {out}." if proven else "Nothing is written."]))
    if not proven or expensive:
        raise typer.Exit(1)


def _price(latency: bool, costs: Path | None) -> "tuple[CostFunction, str, float]":
    """Return the cost of a stage, the unit to print it in, and how much of the cost that unit is."""
    from roadwork_serve.calibration.costs import read_costs
    from roadwork_serve.calibration.trajectories import flops_cost, latency_cost

    if latency:
        return latency_cost, "ms of inference", 1.0
    return (flops_cost, "GFLOP", 1e9) if costs is None else (read_costs(costs), "of cost", 1.0)


def _summary(part: "MediaResult", unit: str, per: float) -> str:
    bound = part.bound
    proof = "no bound is proven"
    if bound is not None:
        proof = f"{bound.errors} early-exit errors in {bound.n} tested items, p {bound.p_value:.2g}"
    left = f"; {part.left_out} rows were left out of the test to keep its proportions" if part.left_out else ""
    saved = f"{part.full_cost / part.cost:.2f}x less than" if part.bound and part.cost else "as much as"
    return (
        f"{part.media}s: {proof}{left}; an item costs {part.cost / per:,.4g} {unit}, {saved} with all stages; "
        f"{part.exits[0]:.1%} exit at stage 1; accuracy on all rows {part.accuracy:.4f}, with all stages "
        f"{part.full_accuracy:.4f}"
    )


def _print_trade_offs(console: Any, options: "list[TradeOff]", stages: list[list[str]]) -> None:
    from rich.table import Table

    for kind, names in zip(_KINDS, stages, strict=True):
        mine = [option for option in options if option.media == kind]
        if not mine:
            continue
        heads = ("bound", "confidence", "proven", "cost", "accuracy", *names, "tested", "more rows")
        title = f"{kind}s: cost of other bounds, relative to all stages, and the exits at each stage"
        table = Table(*heads, title=title, box=None, pad_edge=False)
        for option in mine:
            share = option.cost / option.full_cost if option.full_cost else 0.0
            tested = f"{option.test_size:,}" if option.proven else f"of {option.min_test_size:,}"
            missing = "none suffices" if option.rows_missing is None else f"{option.rows_missing:,}"
            more = "" if option.proven else missing
            table.add_row(
                f"{option.risk_limit:.1%}", f"{option.confidence:g}", "yes" if option.proven else "no", f"{share:.1%}",
                f"{option.accuracy:.4f}", *(f"{share:.1%}" for share in option.exits), tested, more,
            )  # fmt: skip
        console.print(table)
    console.print("The guarantee holds only for the bound you asked for. To use another one, test it on new rows.")
