"""Writes a run as JSON and prints it as tables."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.chaos.checks import SLACK_S, Check, late
from benchmarks.chaos.drive import ChaosRun
from benchmarks.chaos.figures import outcomes, share
from benchmarks.chaos.plan import Plan
from benchmarks.environment import Environment


def write(path: Path, run: ChaosRun, plan: Plan, seed: int, found: list[Check], environment: Environment) -> None:
    """Write all figures, without the individual requests."""
    observations = run.observations
    answered = [record for record in observations.records if record.outcome == "answered"]
    late_answers = late(observations.records)
    result: dict[str, Any] = {
        "environment": asdict(environment),
        "plan": asdict(plan),
        "seed": seed,
        "ingress_replicas": observations.replicas,
        "passed": all(check.passed for check in found),
        "checks": [asdict(check) for check in found],
        "capacity_per_s": run.capacity_per_s,
        "sent": observations.sent,
        "outcomes": outcomes(observations.records),
        "degraded_share": share(sum(bool(r.verdict and r.verdict.degraded) for r in answered), len(answered)),
        "late": {
            "more_than_ms": 1000 * SLACK_S,
            "count": len(late_answers),
            "share": share(len(late_answers), len(answered)),
            "worst_ms": max([1000 * record.late_s for record in late_answers], default=0.0),
        },
        "retried": {
            "requests": sum(bool(record.broken_connections or record.serve_errors) for record in observations.records),
            "broken_connections": sum(record.broken_connections for record in observations.records),
            "serve_errors": sum(record.serve_errors for record in observations.records),
        },
        "phases": [asdict(phase) for phase in observations.phases],
        "kills": [asdict(kill) | {"recovery_s": kill.recovery_s} for kill in observations.kills],
        "policies": [
            {
                "version": each.version,
                "asked_s": each.requested_s,
                "active_s": each.confirmed_s if each.confirmed_s < 1e9 else None,
            }
            for each in observations.periods
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(result), indent=1) + "\n", encoding="utf-8")


def show(console: Console, run: ChaosRun, found: list[Check]) -> None:
    """Print the phases, the kills and the checks."""
    phases = Table(title=f"Capacity {run.capacity_per_s:.1f} per second")
    headings = ("phase", "s", "sent", "answered", "refused", "errors", "offered/s", "goodput/s", "degraded", "late",
                "p50 ms", "p99 ms", "retries", "client CPU", "client lag ms")  # fmt: skip
    for heading in headings:
        phases.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase in run.observations.phases:
        counted = phase.outcomes
        phases.add_row(
            phase.name, f"{phase.seconds:.0f}", str(phase.sent), str(counted.get("answered", 0)),
            str(counted.get("refused", 0) + counted.get("cut off", 0)), str(counted.get("client error", 0)),
            f"{phase.offered_per_s:.1f}", f"{phase.goodput_per_s:.1f}", f"{phase.degraded_share:.1%}", str(phase.late),
            _ms(phase.p50_ms), _ms(phase.p99_ms), str(phase.retries), f"{phase.client_cpu:.0%}",
            f"{phase.client_lag_ms:.0f}",
        )  # fmt: skip
    console.print(phases)
    kills = Table(title="Kills")
    for heading in ("phase", "target", "at s", "recovered after s"):
        kills.add_column(heading, justify="right" if heading.endswith(" s") else "left")
    for kill in run.observations.kills:
        recovery = "[red]never[/]" if kill.recovery_s is None else f"{kill.recovery_s:.1f}"
        kills.add_row(kill.phase, kill.target, f"{kill.killed_s:.1f}", recovery)
    console.print(kills)
    for check in found:
        console.print(
            f"{'[green]passed[/]' if check.passed else '[red]FAILED[/]'} {check.claim}: {check.observed}",
            highlight=False,
        )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _rounded(value: Any) -> Any:
    """Round all floats to four decimal places."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
