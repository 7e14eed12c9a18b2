"""Results on real data by source: overall, averaged over the sources, and for each source."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.engines.training_data import TrainingData
from roadwork_serve.evaluation import metrics
from roadwork_serve.evaluation.rows import EvaluationRow

CAVEAT = (
    "The sources differ between the classes, so a model can score by recognising the source instead of the road work: "
    "read the sources and the hard negatives, and do not quote the pooled numbers as the product's accuracy."
)
#: An answer below the first or above the second is confident.
CONFIDENT = (0.1, 0.9)


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSet:
    """Labelled items with the answers of one model; arrays are [n]."""

    truth: metrics.Truth
    #: P(active road work).
    probability: metrics.Scores
    #: Predicted labels.
    predicted: metrics.Truth
    source: tuple[str, ...]
    #: Items that look like road work; they count as hard negatives where the label is none.
    hard: metrics.Truth

    def of_source(self, name: str) -> "ScoredSet":
        """Return the items of one source."""
        at = np.array([source == name for source in self.source], dtype=bool)
        kept = (name,) * int(at.sum())
        return ScoredSet(self.truth[at], self.probability[at], self.predicted[at], kept, self.hard[at])


@dataclass(frozen=True, slots=True)
class SourceMetrics:
    """Metrics of a set of items. A metric that the set does not define is NaN."""

    n: int
    #: Number of items with road work.
    positives: int
    accuracy: float
    #: Mean of the accuracies of the two classes; NaN without both.
    balanced_accuracy: float
    auc: float
    mcc: float
    ece: float
    #: Number of hard negatives.
    hard_negatives: int
    #: Share of the hard negatives that were classified as road work.
    hard_false_positives: float
    #: Share of the other negatives that were classified as road work.
    plain_false_positives: float
    #: Number of answers above 0.9 or below 0.1.
    confident: int
    #: Share of the confident answers that are wrong.
    confident_errors: float


@dataclass(frozen=True, slots=True)
class MacroAverage:
    """Means over the sources, in which a source counts once whatever its size."""

    #: Number of sources.
    sources: int
    accuracy: float
    #: Number of sources with items of both classes. The metrics below are means over these alone.
    two_class_sources: int
    balanced_accuracy: float
    auc: float


@dataclass(frozen=True, slots=True)
class SourceBreakdown:
    """Metrics of one model on one set of items."""

    overall: SourceMetrics
    macro: MacroAverage
    by_source: dict[str, SourceMetrics]


@dataclass(frozen=True, slots=True)
class StageComparison:
    """Stage 1 alone and the whole cascade on the same photos."""

    stage1: SourceBreakdown
    cascade: SourceBreakdown
    #: Names of the hard negatives that the cascade classified as road work.
    hard_negative_false_positives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClipResult:
    """The verdict on one clip."""

    name: str
    #: None when every frame is unclear.
    label: bool | None
    probability: float
    predicted_label: bool
    exit_stage: str
    seen_in_training: bool


@dataclass(frozen=True, slots=True)
class SourceReport:
    """Photos by source, and clips one by one. Ignored photos are left out."""

    caveat: str
    #: Photos that no model was trained on, as far as its weights declare.
    photos: StageComparison
    #: Photos of sources and groups that a model was trained on; None without any.
    seen_in_training: StageComparison | None
    clips: tuple[ClipResult, ...]


def set_metrics(scored: ScoredSet) -> SourceMetrics:
    """Compute the metrics of a set."""
    truth, predicted = scored.truth, scored.predicted
    confident = (scored.probability < CONFIDENT[0]) | (scored.probability > CONFIDENT[1])
    hard, plain = ~truth & scored.hard, ~truth & ~scored.hard
    return SourceMetrics(
        n=truth.size,
        positives=int(truth.sum()),
        accuracy=metrics.accuracy(truth, predicted),
        balanced_accuracy=metrics.balanced_accuracy(truth, predicted),
        auc=metrics.auc(truth, scored.probability),
        mcc=metrics.mcc(truth, predicted),
        ece=metrics.ece(truth, scored.probability),
        hard_negatives=int(hard.sum()),
        hard_false_positives=_share(predicted[hard]),
        plain_false_positives=_share(predicted[plain]),
        confident=int(confident.sum()),
        confident_errors=_share((truth != predicted)[confident]),
    )


def source_breakdown(scored: ScoredSet) -> SourceBreakdown:
    """Compute the metrics of a set overall, averaged over its sources, and of each source."""
    by_source = {name: set_metrics(scored.of_source(name)) for name in sorted(set(scored.source))}
    parts = list(by_source.values())
    both = [part for part in parts if 0 < part.positives < part.n]
    return SourceBreakdown(
        overall=set_metrics(scored),
        macro=MacroAverage(
            sources=len(parts),
            accuracy=_mean(part.accuracy for part in parts),
            two_class_sources=len(both),
            balanced_accuracy=_mean(part.balanced_accuracy for part in both),
            auc=_mean(part.auc for part in both),
        ),
        by_source=by_source,
    )


def source_report(rows: Sequence[EvaluationRow], policy: Policy, seen: TrainingData) -> SourceReport | None:
    """Compute the results by source; None when no photo has a source.

    seen: data that the models were trained on; photos of it are reported apart.
    """
    photos = [row for row in rows if row.metadata.kind == "photo" and not row.metadata.ignore]
    if not any(row.metadata.source for row in photos):
        return None
    parts: dict[bool, list[EvaluationRow]] = {False: [], True: []}
    for row in photos:
        parts[seen.covers(row.metadata.source, row.metadata.group)].append(row)
    return SourceReport(
        caveat=CAVEAT,
        photos=stage_comparison(parts[False], policy),
        seen_in_training=stage_comparison(parts[True], policy) if parts[True] else None,
        clips=tuple(
            ClipResult(
                row.metadata.name,
                None if row.metadata.ignore else row.metadata.label,
                row.probability,
                row.predicted_label,
                row.exit_stage,
                seen.covers(row.metadata.source, row.metadata.group),
            )
            for row in rows
            if row.metadata.kind == "clip"
        ),
    )


def stage_comparison(photos: Sequence[EvaluationRow], policy: Policy) -> StageComparison:
    """Compare stage 1 alone, at the policy's threshold, with the cascade."""
    stage1 = np.array([stage1_posterior(row, policy) for row in photos], dtype=np.float64)
    cascade = np.array([row.probability for row in photos], dtype=np.float64)
    predicted = np.array([row.predicted_label for row in photos], dtype=bool)
    return StageComparison(
        stage1=source_breakdown(_scored(photos, stage1, stage1 >= policy.decision_threshold)),
        cascade=source_breakdown(_scored(photos, cascade, predicted)),
        hard_negative_false_positives=tuple(
            row.metadata.name
            for row in photos
            if row.metadata.hard_negative and not row.metadata.label and row.predicted_label
        ),
    )


def stage1_posterior(row: EvaluationRow, policy: Policy) -> float:
    """Return the posterior of a photo after stage 1; the prior when stage 1 abstained."""
    record = row.record(policy.photo[0].stage)
    return policy.prior if record is None or record.posterior is None else record.posterior


def _scored(rows: Sequence[EvaluationRow], probability: metrics.Scores, predicted: metrics.Truth) -> ScoredSet:
    return ScoredSet(
        truth=np.array([row.metadata.label for row in rows], dtype=bool),
        probability=probability,
        predicted=predicted,
        source=tuple(row.metadata.source or "unknown" for row in rows),
        hard=np.array([row.metadata.hard_negative for row in rows], dtype=bool),
    )


def _share(flags: metrics.Truth) -> float:
    return float(np.mean(flags)) if flags.size else math.nan


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else math.nan
