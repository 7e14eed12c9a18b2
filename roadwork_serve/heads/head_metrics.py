"""Metrics of a head, per item: the rows of a clip are combined first."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from roadwork_serve.evaluation import metrics
from roadwork_serve.heads.feature_set import FeatureSet

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HeadMetrics:
    """Metrics over items; a clip counts once. NaN when the sample does not define them."""

    #: Number of items.
    n: int
    #: Number of items with road work.
    positives: int
    #: Number of groups.
    groups: int
    #: In nats, unweighted.
    log_loss: float
    accuracy: float
    auc: float
    mcc: float
    brier: float
    ece: float


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """Rows combined to items."""

    #: Index of the first row of each item, [items].
    first: NDArray[np.int64]
    #: float64 [items].
    logit: Floats
    #: bool [items].
    truth: NDArray[np.bool_]


def items(features: FeatureSet, logits: Floats) -> Items:
    """Combine rows to one logit an item, as stage 1 does: for a clip the mean of its two highest frames."""
    rows: dict[str, list[int]] = {}
    for at, name in enumerate(features.name):
        rows.setdefault(name, []).append(at)
    first = np.array([mine[0] for mine in rows.values()], dtype=np.int64)
    together = np.array([np.sort(logits[mine])[-2:].mean() for mine in rows.values()], dtype=np.float64)
    return Items(first, together, features.target[first] >= 0.5)


def head_metrics(features: FeatureSet, logits: Floats) -> HeadMetrics:
    """Compute the metrics of logits [rows]."""
    mine = items(features, logits)
    p = expit(mine.logit)
    return HeadMetrics(
        n=len(mine.first),
        positives=int(mine.truth.sum()),
        groups=len({features.together[at] for at in mine.first}),
        log_loss=log_loss(mine.logit, features.target[mine.first], np.ones(len(mine.first), np.float32)),
        accuracy=metrics.accuracy(mine.truth, mine.logit >= 0),
        auc=metrics.auc(mine.truth, mine.logit),
        mcc=metrics.mcc(mine.truth, mine.logit >= 0),
        brier=metrics.brier(mine.truth, p),
        ece=metrics.ece(mine.truth, p),
    )


def log_loss(logits: Floats, target: NDArray[np.float32], weight: NDArray[np.float32]) -> float:
    """Return the weighted mean cross-entropy, in nats, of logits [n] against target probabilities [n]."""
    losses = np.logaddexp(0.0, logits) - target * logits
    return float(np.average(losses, weights=weight))
