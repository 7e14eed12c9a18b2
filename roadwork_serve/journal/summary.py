"""A summary of journal rows, accumulated row by row."""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from roadwork_serve.journal.record import JournalRow
from roadwork_serve.profiles.flops import flops

_LATEST = 20_000  # times of a stage that quantiles are computed from


@dataclass(slots=True)
class Summary:
    """Counts and sums over journal rows."""

    predictions: int = 0
    exits: Counter[str] = field(default_factory=Counter[str])
    reasons: Counter[str] = field(default_factory=Counter[str])
    labels: Counter[str] = field(default_factory=Counter[str])
    policies: Counter[str] = field(default_factory=Counter[str])
    degraded: int = 0
    #: Rows with a human label other than "unclear".
    labeled: int = 0
    #: Of the labelled rows, those whose verdict has the same label.
    correct: int = 0
    audited: int = 0
    media_available: int = 0
    #: Sum over all rows.
    probability: float = 0.0
    #: Sum over all rows, in FLOP.
    flops: float = 0.0
    #: Latest milliseconds of each stage, an item.
    ms: dict[str, deque[float]] = field(default_factory=dict[str, deque[float]])

    def add(self, row: JournalRow) -> None:
        """Add a row."""
        verdict, annotation = row.prediction.verdict, row.annotation
        self.predictions += 1
        self.exits[verdict.exit.stage] += 1
        self.reasons[verdict.exit.reason] += 1
        self.labels[verdict.label] += 1
        self.policies[verdict.policy_version] += 1
        self.degraded += verdict.degraded
        self.audited += row.audit is not None
        self.media_available += row.media_available
        self.probability += verdict.probability
        if annotation is not None and annotation.label is not None:
            self.labeled += 1
            self.correct += annotation.label == verdict.label
        used = [report for report in verdict.stages if report.outcome in ("answered", "abstained")]
        self.flops += flops([report.stage for report in used], verdict.media)
        for report in used:
            times = self.ms.setdefault(report.stage, deque(maxlen=_LATEST))
            times.append(report.queue_ms + report.rpc_ms + report.preprocess_ms + report.compute_ms)

    def as_dict(self) -> dict[str, object]:
        """Return the figures as plain data; None where there are no rows to compute one from."""
        n = self.predictions

        def shares(counts: Counter[str]) -> dict[str, float]:
            return {name: count / n for name, count in counts.most_common()}

        return {
            "predictions": n,
            "exit_mix": shares(self.exits),
            "reasons": shares(self.reasons),
            "labels": shares(self.labels),
            "policies": shares(self.policies),
            "degraded": self.degraded / n if n else None,
            "mean_probability": self.probability / n if n else None,
            "mean_tflop": self.flops / n / 1e12 if n else None,
            "audited": self.audited,
            "labeled": self.labeled,
            "accuracy_where_labeled": self.correct / self.labeled if self.labeled else None,
            "media_available": self.media_available,
            "stage_ms": {
                stage: {"n": len(times), "p50": float(np.median(times)), "p95": float(np.quantile(times, 0.95))}
                for stage, times in self.ms.items()
            },
        }


def summarize(rows: Iterable[JournalRow]) -> Summary:
    """Return the summary of rows."""
    found = Summary()
    for row in rows:
        found.add(row)
    return found
