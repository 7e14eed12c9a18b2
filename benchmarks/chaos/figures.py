"""Figures of a run, by phase."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from benchmarks.chaos.outcomes import Outcome, Record


@dataclass(frozen=True, slots=True)
class Kill:
    """A process killed with SIGKILL. Times are seconds on the clock of the run."""

    target: str
    phase: str
    killed_s: float
    #: None if it did not recover within the time limit.
    recovered_s: float | None = None

    @property
    def recovery_s(self) -> float | None:
        """Time from the kill until a successor works."""
        return None if self.recovered_s is None else self.recovered_s - self.killed_s


@dataclass(frozen=True, slots=True)
class Span:
    """A phase as it ran. Times are seconds on the clock of the run."""

    name: str
    #: Load relative to the capacity.
    factor: float
    began_s: float
    ended_s: float
    #: Part of the beginning that is excluded from goodput.
    ramp_s: float = 0.0
    #: Cores used by the load generator.
    client_cpu: float = 0.0
    #: Largest lag of the load generator.
    client_lag_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class PhaseFigures:
    """Figures of the requests sent in a phase; goodput counts the answers that arrived in it."""

    name: str
    seconds: float
    sent: int
    outcomes: dict[str, int]
    #: Requests sent.
    offered_per_s: float
    #: Answers within their deadline, after the ramp.
    goodput_per_s: float
    #: Share of verdicts that are degraded.
    degraded_share: float
    late: int
    #: Latency of verdicts, from the first attempt.
    p50_ms: float | None
    p99_ms: float | None
    exits: dict[str, int]
    reasons: dict[str, int]
    refusals: dict[str, int]
    #: Retries after a process died.
    retries: int
    client_cpu: float
    client_lag_ms: float


def phase_figures(span: Span, records: Sequence[Record], slack_s: float) -> PhaseFigures:
    """Return the figures of one phase. A verdict more than `slack_s` after its deadline is late."""
    sent = [record for record in records if record.phase == span.name]
    verdicts = [record.verdict for record in sent if record.verdict is not None]
    took = sorted(1000 * record.took_s for record in sent if record.outcome == "answered")
    since, seconds = span.began_s + span.ramp_s, span.ended_s - span.began_s
    good = sum(record.in_time(slack_s) and since <= record.ended_s < span.ended_s for record in records)
    return PhaseFigures(
        name=span.name,
        seconds=seconds,
        sent=len(sent),
        outcomes={each: count for each, count in outcomes(sent).items() if count},
        offered_per_s=len(sent) / seconds,
        goodput_per_s=good / (span.ended_s - since),
        degraded_share=share(sum(verdict.degraded for verdict in verdicts), len(verdicts)),
        late=sum(record.outcome == "answered" and not record.in_time(slack_s) for record in sent),
        p50_ms=quantile(took, 0.5),
        p99_ms=quantile(took, 0.99),
        exits=_counted(verdict.exit.stage for verdict in verdicts),
        reasons=_counted(verdict.exit.reason for verdict in verdicts),
        refusals=_counted(record.detail for record in sent if record.outcome in ("refused", "cut off")),
        retries=sum(record.broken_connections + record.serve_errors for record in sent),
        client_cpu=span.client_cpu,
        client_lag_ms=span.client_lag_ms,
    )


def outcomes(records: Iterable[Record]) -> dict[str, int]:
    """Return the number of requests by outcome."""
    counted = Counter(record.outcome for record in records)
    return {outcome: counted[outcome] for outcome in get_args(Outcome)}


def quantile(ascending: Sequence[float], part: float) -> float | None:
    """Return the nearest-rank quantile of sorted numbers; None if there are none."""
    return ascending[max(0, math.ceil(part * len(ascending)) - 1)] if ascending else None


def share(part: int, whole: int) -> float:
    """Return a fraction; 0 if the denominator is 0."""
    return part / whole if whole else 0.0


def _counted(words: Iterable[str]) -> dict[str, int]:
    return dict(Counter(words).most_common())
