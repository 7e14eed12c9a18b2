"""Grouped cross-validation of a head: every item is judged by a head that has seen nothing of its group.

The heads are thrown away, so all labelled data may take part, whatever its licence.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.calibration.curves import apply_curve, platt
from roadwork_serve.cascade.curve import Curve
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.engines.features import Head
from roadwork_serve.evaluation.metrics import Confusion, confusion
from roadwork_serve.evaluation.photo_report import CAVEAT
from roadwork_serve.heads.feature_set import FeatureSet
from roadwork_serve.heads.fit import HeadTraining, fit_head, predict_logits
from roadwork_serve.heads.head_metrics import HeadMetrics, head_metrics, items, sigmoid
from roadwork_serve.heads.holdout import group_folds
from roadwork_serve.provenance import environment

Floats = NDArray[np.float64]
_INNER = 3
_TOLD = 3  # decimals of probabilities that are listed


@dataclass(frozen=True, slots=True)
class FoldMetrics:
    """What one way of judging the items comes to. pooled: over all of them; mind the caveat of the report.

    other: all but the hard negatives. wrong: of the items judged wrong, the probability of road work by name.
    """

    pooled: HeadMetrics
    by_group: Mapping[str, Confusion]
    by_source: Mapping[str, Confusion]
    hard_negatives: int
    hard_negatives_said_roadwork: tuple[str, ...]
    other: Confusion
    wrong: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CrossReport:
    """head: out of fold, uncalibrated; calibrated: through a curve fitted to other folds; shipped: the head that lies
    beside the weights, as it is. curves: of each fold.
    """

    caveat: str
    model: str
    backbone: str
    recipe: str
    folds: int
    seed: int
    n: int
    groups: int
    head: FoldMetrics
    calibrated: FoldMetrics
    shipped: FoldMetrics | None
    curves: tuple[Curve, ...]
    data: str
    origin: tuple[str, ...]
    settings: Mapping[str, object]
    command: str
    environment: Mapping[str, str]


def cross_validate(
    features: FeatureSet,
    settings: HeadTraining,
    count: int,
    shipped: Head | None = None,
    command: str = "",
    on_done: Callable[[], None] = lambda: None,
) -> CrossReport:
    """Train, calibrate and judge `count` times.

    A fold's curve is fitted to what heads say of its training part that were trained on other groups of it. on_done:
    called after every head. Raises ConfigError where the groups are too few.
    """
    truth = features.target >= 0.5
    raw, curved = np.empty(len(features)), np.empty(len(features))
    curves: list[Curve] = []
    for part in group_folds(features.together, truth, count, settings.seed):
        taught, held = features.rows(part.train), features.rows(part.held)
        inner = _out_of_fold(taught, settings, on_done)
        curve = _curve(taught, inner)
        raw[part.held] = predict_logits(fit_head(taught, settings).head, held)
        curved[part.held] = apply_curve(curve, raw[part.held])
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
        head=fold_metrics(features, raw),
        calibrated=fold_metrics(features, curved),
        shipped=None if shipped is None else fold_metrics(features, predict_logits(shipped, features)),
        curves=tuple(curves),
        data=features.digest,
        origin=features.origin,
        settings=asdict(settings),
        command=command,
        environment=environment(),
    )


def heads_of(count: int) -> int:
    """How many heads that takes."""
    return count * (_INNER + 1)


def fold_metrics(features: FeatureSet, logits: Floats) -> FoldMetrics:
    """What logits [rows] say of the items; a clip counts once."""
    mine = items(features, logits)
    abouts = [_about(features, int(at)) for at in mine.first]
    answers = mine.logit >= 0
    hard = [about.hard_negative for about in abouts]
    p = sigmoid(mine.logit)
    easy = ~np.array(hard, dtype=bool)
    return FoldMetrics(
        pooled=head_metrics(features, logits),
        by_group=_by([about.group for about in abouts], mine.truth, answers),
        by_source=_by([about.source for about in abouts], mine.truth, answers),
        hard_negatives=sum(hard),
        hard_negatives_said_roadwork=tuple(
            about.name for about, yes in zip(abouts, answers, strict=True) if about.hard_negative and yes
        ),
        other=confusion(mine.truth[easy], answers[easy]),
        wrong={
            about.name: round(float(each), _TOLD)
            for about, each, yes, true in zip(abouts, p, answers, mine.truth, strict=True)
            if yes != true
        },
    )


def _out_of_fold(taught: FeatureSet, settings: HeadTraining, on_done: Callable[[], None]) -> Floats:
    """Logits [rows] of heads that were trained on other groups."""
    told = np.full(len(taught), math.nan)
    for part in group_folds(taught.together, taught.target >= 0.5, _INNER, settings.seed):
        told[part.held] = predict_logits(fit_head(taught.rows(part.train), settings).head, taught.rows(part.held))
        on_done()
    return told


def _curve(taught: FeatureSet, logits: Floats) -> Curve:
    """Platt's: two numbers, which is as much as so few items bear."""
    mine = items(taught, logits)
    return platt(mine.logit, mine.truth, np.ones(len(mine.first)))


def _about(features: FeatureSet, at: int) -> SampleMetadata:
    if features.about:
        return features.about[at]
    return SampleMetadata(features.name[at], "photo", bool(features.target[at] >= 0.5), group=features.group[at])


def _by(keys: Sequence[str], truth: NDArray[np.bool_], answers: NDArray[np.bool_]) -> dict[str, Confusion]:
    named = np.array(keys)
    return {key: confusion(truth[named == key], answers[named == key]) for key in sorted(set(keys))}
