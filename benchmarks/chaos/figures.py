"""A storm in numbers."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from benchmarks.chaos.outcomes import Outcome, Record


@dataclass(frozen=True, slots=True)
class Kill:
    """A process killed with SIGKILL. Seconds on the clock of the run; back_s None: not within what it was given."""

    target: str
    phase: str
    at_s: float
    back_s: float | None = None

    @property
    def recovery_s(self) -> float | None:
        """From the kill until a successor does its work."""
        return None if self.back_s is None else self.back_s - self.at_s


@dataclass(frozen=True, slots=True)
class Span:
    """A phase as it ran, seconds on the clock of the run. ramp_s: of its beginning, left out of goodput."""

    name: str
    times: float
    began_s: float
    ended_s: float
    ramp_s: float = 0.0
    own_cpu: float = 0.0  # of a core, what the load generator took
    lag_ms: float = 0.0  # by which the load generator was late at most


@dataclass(frozen=True, slots=True)
class PhaseFigures:
    """Of the requests sent in a phase; goodput of the answers that came in it.

    offered_per_s: what was sent. goodput_per_s: answers within their deadline, after the ramp.
    latencies are of verdicts, from the first time a request was sent. degraded_share: of verdicts. retries: requests
    sent again because a process died under them, each time counted.
    """

    name: str
    seconds: float
    sent: int
    outcomes: dict[str, int]
    offered_per_s: float
    goodput_per_s: float
    degraded_share: float
    late: int
    p50_ms: float | None
    p99_ms: float | None
    exits: dict[str, int]
    reasons: dict[str, int]
    refusals: dict[str, int]
    retries: int
    own_cpu: float
    lag_ms: float


def phase_figures(span: Span, records: Sequence[Record], slack_s: float) -> PhaseFigures:
    """Return the figures of one phase. A verdict more than `slack_s` beyond its deadline is late."""
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
        refusals=_counted(record.told for record in sent if record.outcome in ("refused", "cut off")),
        retries=sum(record.broken + record.plain for record in sent),
        own_cpu=span.own_cpu,
        lag_ms=span.lag_ms,
    )


def outcomes(records: Iterable[Record]) -> dict[str, int]:
    """How many requests ended in each way."""
    counted = Counter(record.outcome for record in records)
    return {outcome: counted[outcome] for outcome in get_args(Outcome)}


def quantile(ascending: Sequence[float], part: float) -> float | None:
    """Return the nearest-rank quantile of sorted numbers; None of none."""
    return ascending[max(0, math.ceil(part * len(ascending)) - 1)] if ascending else None


def share(part: int, whole: int) -> float:
    """Of nothing, nothing."""
    return part / whole if whole else 0.0


def _counted(words: Iterable[str]) -> dict[str, int]:
    return dict(Counter(words).most_common())
