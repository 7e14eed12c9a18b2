"""`roadwork calibrate`. It imports what it needs when it runs."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from roadwork_serve.cli.options import DEFAULT_HOLDOUT, JournalSource, ReportFolder, RowsFile, StageOneHead
from roadwork_serve.errors import ConfigError
from roadwork_serve.terminal import echo


def calibrate(
    policy: Annotated[str, typer.Option(help="Policy to start from, by name or path.")],
    out: Annotated[Path, typer.Option(help="Policy file to write.")],
    rows: RowsFile = None,
    journal: JournalSource = None,
    head: StageOneHead = None,
    version: Annotated[str, typer.Option(help="Version of the new policy.")] = "calibrated",
    holdout: Annotated[
        float,
        typer.Option(
            min=0, max=0.95, help="Share of the rows to reserve for `tune`, which tests the exit bands on them."
        ),
    ] = DEFAULT_HOLDOUT,
    report_folder: ReportFolder = None,
) -> None:
    """Fit a calibration curve for each stage by cross-validation, and the weights that combine the stages.

    Exit bands stay as they are: run `tune` next. Given the same rows, both commands split them the same way, so `tune`
    tests on rows that `calibrate` has not seen.
    """
    from roadwork_serve.calibration.calibrate import calibrate as fit
    from roadwork_serve.calibration.policy_writer import write_policy
    from roadwork_serve.calibration.sources import load_rows, with_head
    from roadwork_serve.calibration.thresholds import holdout_mask
    from roadwork_serve.cascade.policy_file import load_policy

    base = load_policy(policy)
    given = load_rows(rows, journal, base, head)
    used = [row for row, held_out in zip(given, holdout_mask(given, holdout), strict=True) if not held_out]
    made, result = fit(used, with_head(base, head), version)
    if not result.fits:
        raise ConfigError(
            f"{len(used)} rows are too few to fit anything to, or of one class; give more, or --holdout 0"
        )
    lines = [f"{fit.media} {fit.stage}: {fit.curve}{', stacked' if fit.stacked else ''}" for fit in result.fits]
    for kind, after in result.after.items():
        before = result.before[kind]
        lines.append(
            f"{after.n} {kind}s, out of fold: log loss {before.log_loss:.4f} -> {after.log_loss:.4f}, ECE "
            f"{before.ece:.4f} -> {after.ece:.4f}, Brier {before.brier:.4f} -> {after.brier:.4f}"
        )
    comment = (
        f"Calibrated on {len(used)} rows of {len(given)}. Exit bands are those of {base.version}; no bound is proven."
    )
    write_policy(out, made, "\n".join([comment, *lines]))
    if report_folder is not None:
        from roadwork_serve.atomic_write import write_json
        from roadwork_serve.calibration.diagrams import reliability
        from roadwork_serve.calibration.reliability import by_source, reliability_panels

        panels = reliability_panels(used, made, result)
        reliability(panels, report_folder / "reliability.png")
        quality = {
            f"{panel.media} {panel.stage}": {
                "before": asdict(panel.quality_before),
                "after": asdict(panel.quality_after),
            }
            for panel in panels
        }
        sources = {
            panel.media: {
                source: {"before": asdict(before), "after": asdict(after)}
                for source, (before, after) in by_source(used, panel).items()
            }
            for panel in panels
            if panel.stage == "cascade"
        }
        fits = [asdict(fit) for fit in result.fits]
        figures = {"rows": len(given), "fitted_to": len(used), "fits": fits, "quality": quality, "by_source": sources}
        write_json(report_folder / "calibration.json", figures)
    echo("\n".join([*lines, f"Written to {out}."]))
