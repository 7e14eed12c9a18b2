"""Grouped cross-validation of a head: every item is classified by a head trained without its group.

The heads are discarded, so labelled data of any licence may be used.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from roadwork_serve.calibration.curves import apply_curve, platt
from roadwork_serve.cascade.curve import Curve
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.engines.features import Head
from roadwork_serve.evaluation.by_source import CAVEAT
from roadwork_serve.evaluation.metrics import Confusion, confusion
from roadwork_serve.heads.feature_set import FeatureSet
from roadwork_serve.heads.fit import HeadTraining, fit_head, predict_logits
from roadwork_serve.heads.head_metrics import HeadMetrics, head_metrics, items
from roadwork_serve.heads.holdout import group_folds
from roadwork_serve.provenance import environment

Floats = NDArray[np.float64]
_INNER = 3
_DIGITS = 3  # decimals of reported probabilities


@dataclass(frozen=True, slots=True)
class FoldMetrics:
    """Metrics of out-of-fold predictions."""

    #: Over all items; see the caveat of the report.
    pooled: HeadMetrics
    by_group: Mapping[str, Confusion]
    by_source: Mapping[str, Confusion]
    #: Number of hard negatives.
    hard_negatives: int
    #: Names of the hard negatives that were classified as road work.
    hard_negative_false_positives: tuple[str, ...]
    #: All items but the hard negatives.
    other: Confusion
    #: Probability of road work of each misclassified item, by name.
    misclassified: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CrossReport:
    """The outcome of a cross-validation."""

    caveat: str
    model: str
    backbone: str
    recipe: str
    folds: int
    seed: int
    #: Number of items.
    n: int
    groups: int
    #: Out of fold, uncalibrated.
    head: FoldMetrics
    #: Out of fold, through a curve fitted on other folds.
    calibrated: FoldMetrics
    #: The head stored beside the backbone's weights, as it is; None without one.
    bundled: FoldMetrics | None
    #: Calibration curve of each fold.
    curves: tuple[Curve, ...]
    #: SHA-256 of the data.
    data: str
    origin: tuple[str, ...]
    settings: Mapping[str, object]
    command: str
    environment: Mapping[str, str]


def cross_validate(
    features: FeatureSet,
    settings: HeadTraining,
    count: int,
    bundled: Head | None = None,
    command: str = "",
    on_done: Callable[[], None] = lambda: None,
) -> CrossReport:
    """Train, calibrate and evaluate a head on each of `count` folds.

    A fold's curve is fitted to out-of-fold predictions within its training part. on_done: called after every head.
    Raises ConfigError when there are too few groups.
    """
    truth = features.target >= 0.5
    logits, calibrated = np.empty(len(features)), np.empty(len(features))
    curves: list[Curve] = []
    for part in group_folds(features.together, truth, count, settings.seed):
        train_set, val_set = features.rows(part.train), features.rows(part.val)
        inner = _out_of_fold(train_set, settings, on_done)
        curve = _curve(train_set, inner)
        logits[part.val] = predict_logits(fit_head(train_set, settings).head, val_set)
        calibrated[part.val] = apply_curve(curve, logits[part.val])
        curves.append(curve)
        on_done()
    return CrossReport(
        caveat=CAVEAT,
        model=features.model,
        backbone=features.backbone,
        recipe=settings.recipe or features.recipe,
        folds=count,
        seed=settings.seed,
        n=len(set(features.name)),
        groups=len(set(features.together)),
        head=fold_metrics(features, logits),
        calibrated=fold_metrics(features, calibrated),
        bundled=None if bundled is None else fold_metrics(features, predict_logits(bundled, features)),
        curves=tuple(curves),
        data=features.digest,
        origin=features.origin,
        settings=asdict(settings),
        command=command,
        environment=environment(),
    )


def head_count(count: int) -> int:
    """Return the number of heads that a cross-validation trains."""
    return count * (_INNER + 1)


def fold_metrics(features: FeatureSet, logits: Floats) -> FoldMetrics:
    """Compute the metrics of logits [rows]; a clip counts once."""
    combined = items(features, logits)
    metadata = [_metadata(features, int(index)) for index in combined.first]
    predicted = combined.logit >= 0
    hard = [item.hard_negative for item in metadata]
    p = expit(combined.logit)
    easy = ~np.array(hard, dtype=bool)
    return FoldMetrics(
        pooled=head_metrics(features, logits),
        by_group=_by([item.group for item in metadata], combined.truth, predicted),
        by_source=_by([item.source for item in metadata], combined.truth, predicted),
        hard_negatives=sum(hard),
        hard_negative_false_positives=tuple(
            item.name for item, positive in zip(metadata, predicted, strict=True) if item.hard_negative and positive
        ),
        other=confusion(combined.truth[easy], predicted[easy]),
        misclassified={
            item.name: round(float(probability), _DIGITS)
            for item, probability, positive, label in zip(metadata, p, predicted, combined.truth, strict=True)
            if positive != label
        },
    )


def _out_of_fold(train_set: FeatureSet, settings: HeadTraining, on_done: Callable[[], None]) -> Floats:
    """Return the logits [rows] of heads trained on other groups."""
    logits_out = np.full(len(train_set), math.nan)
    for part in group_folds(train_set.together, train_set.target >= 0.5, _INNER, settings.seed):
        logits_out[part.val] = predict_logits(
            fit_head(train_set.rows(part.train), settings).head, train_set.rows(part.val)
        )
        on_done()
    return logits_out


def _curve(train_set: FeatureSet, logits: Floats) -> Curve:
    """Fit a Platt curve: two parameters, as many as so few items support."""
    combined = items(train_set, logits)
    return platt(combined.logit, combined.truth, np.ones(len(combined.first)))


def _metadata(features: FeatureSet, at: int) -> SampleMetadata:
    if features.metadata:
        return features.metadata[at]
    return SampleMetadata(features.name[at], "photo", bool(features.target[at] >= 0.5), group=features.group[at])


def _by(keys: Sequence[str], truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> dict[str, Confusion]:
    named = np.array(keys)
    return {key: confusion(truth[named == key], predicted[named == key]) for key in sorted(set(keys))}
