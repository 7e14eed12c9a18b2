"""A storm as JSON for machines and as tables for people."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.chaos.checks import SLACK_S, Check, late
from benchmarks.chaos.drive import Storm
from benchmarks.chaos.figures import outcomes, share
from benchmarks.chaos.plan import Plan
from benchmarks.environment import Environment


def write(path: Path, storm: Storm, plan: Plan, seed: int, found: list[Check], environment: Environment) -> None:
    """Write everything but the single requests."""
    told = storm.told
    answered = [record for record in told.records if record.outcome == "answered"]
    behind = late(told.records)
    result: dict[str, Any] = {
        "environment": asdict(environment),
        "plan": asdict(plan),
        "seed": seed,
        "ingress_replicas": told.replicas,
        "passed": all(check.held for check in found),
        "checks": [asdict(check) for check in found],
        "capacity_per_s": storm.capacity_per_s,
        "sent": told.sent,
        "outcomes": outcomes(told.records),
        "degraded_share": share(sum(bool(r.verdict and r.verdict.degraded) for r in answered), len(answered)),
        "late": {
            "more_than_ms": 1000 * SLACK_S,
            "count": len(behind),
            "share": share(len(behind), len(answered)),
            "worst_ms": max([1000 * record.late_s for record in behind], default=0.0),
        },
        "sent_again": {
            "requests": sum(bool(record.broken or record.plain) for record in told.records),
            "broken_connections": sum(record.broken for record in told.records),
            "plain_errors": sum(record.plain for record in told.records),
        },
        "phases": [asdict(phase) for phase in told.phases],
        "kills": [asdict(kill) | {"recovery_s": kill.recovery_s} for kill in told.kills],
        "policies": [
            {"version": each.version, "asked_s": each.asked_s, "in_force_s": each.told_s if each.told_s < 1e9 else None}
            for each in told.reigns
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(result), indent=1) + "\n", encoding="utf-8")


def show(console: Console, storm: Storm, found: list[Check]) -> None:
    """For people."""
    phases = Table(title=f"Capacity {storm.capacity_per_s:.1f} a second")
    headings = ("phase", "s", "sent", "answered", "refused", "errors", "offered/s", "goodput/s", "degraded", "late",
                "p50 ms", "p99 ms", "again", "own CPU", "own lag ms")  # fmt: skip
    for heading in headings:
        phases.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase in storm.told.phases:
        counted = phase.outcomes
        phases.add_row(
            phase.name, f"{phase.seconds:.0f}", str(phase.sent), str(counted.get("answered", 0)),
            str(counted.get("refused", 0) + counted.get("cut off", 0)), str(counted.get("client error", 0)),
            f"{phase.offered_per_s:.1f}", f"{phase.goodput_per_s:.1f}", f"{phase.degraded_share:.1%}", str(phase.late),
            _ms(phase.p50_ms), _ms(phase.p99_ms), str(phase.retries), f"{phase.own_cpu:.0%}", f"{phase.lag_ms:.0f}",
        )  # fmt: skip
    console.print(phases)
    kills = Table(title="Killed")
    for heading in ("phase", "what", "at s", "back after s"):
        kills.add_column(heading, justify="right" if heading.endswith(" s") else "left")
    for kill in storm.told.kills:
        back = "[red]never[/]" if kill.recovery_s is None else f"{kill.recovery_s:.1f}"
        kills.add_row(kill.phase, kill.target, f"{kill.at_s:.1f}", back)
    console.print(kills)
    for check in found:
        console.print(
            f"{'[green]held  [/]' if check.held else '[red]BROKEN[/]'} {check.claim}: {check.seen}", highlight=False
        )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _rounded(value: Any) -> Any:
    """Four digits behind the point say all there is to say."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
