"""What a part of the journal comes to, gathered answer by answer."""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from roadwork_serve.journal.record import JournalRow
from roadwork_serve.profiles.flops import flops

_KEPT = 20_000  # times a stage, the last ones


@dataclass(slots=True)
class Summary:
    """answers: how many. exits, outcomes, labels: counts. probability, spent: summed. ms: of each stage, an item."""

    answers: int = 0
    exits: Counter[str] = field(default_factory=Counter[str])
    reasons: Counter[str] = field(default_factory=Counter[str])
    labels: Counter[str] = field(default_factory=Counter[str])
    policies: Counter[str] = field(default_factory=Counter[str])
    degraded: int = 0
    marked: int = 0
    right: int = 0
    audited: int = 0
    kept: int = 0
    probability: float = 0.0
    spent: float = 0.0
    ms: dict[str, deque[float]] = field(default_factory=dict[str, deque[float]])

    def add(self, case: JournalRow) -> None:
        """One answer more."""
        verdict = case.entry.verdict
        self.answers += 1
        self.exits[verdict.exit.stage] += 1
        self.reasons[verdict.exit.reason] += 1
        self.labels[verdict.label] += 1
        self.policies[verdict.policy_version] += 1
        self.degraded += verdict.degraded
        self.audited += case.audit is not None
        self.kept += case.kept
        self.probability += verdict.probability
        if case.mark is not None and case.mark.label is not None:
            self.marked += 1
            self.right += case.mark.label == verdict.label
        spoke = [report for report in verdict.stages if report.outcome in ("answered", "abstained")]
        self.spent += flops([report.stage for report in spoke], verdict.media)
        for report in spoke:
            times = self.ms.setdefault(report.stage, deque(maxlen=_KEPT))
            times.append(report.queue_ms + report.rpc_ms + report.preprocess_ms + report.compute_ms)

    def told(self) -> dict[str, object]:
        """The figures, as plain data; None where there is nothing to tell of."""
        n = self.answers

        def shares(counts: Counter[str]) -> dict[str, float]:
            return {name: count / n for name, count in counts.most_common()}

        return {
            "answers": n,
            "exit_mix": shares(self.exits),
            "reasons": shares(self.reasons),
            "labels": shares(self.labels),
            "policies": shares(self.policies),
            "degraded": self.degraded / n if n else None,
            "mean_probability": self.probability / n if n else None,
            "tflop_an_item": self.spent / n / 1e12 if n else None,
            "audited": self.audited,
            "marked": self.marked,
            "accuracy_where_marked": self.right / self.marked if self.marked else None,
            "files_kept": self.kept,
            "stage_ms": {
                stage: {"n": len(times), "p50": float(np.median(times)), "p95": float(np.quantile(times, 0.95))}
                for stage, times in self.ms.items()
            },
        }


def summary(cases: Iterable[JournalRow]) -> Summary:
    """Of cases as they come."""
    found = Summary()
    for case in cases:
        found.add(case)
    return found
