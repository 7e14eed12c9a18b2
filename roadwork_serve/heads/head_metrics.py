"""How good a head is: by row for what it is trained on, by item for what people see of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.evaluation import metrics
from roadwork_serve.heads.feature_set import FeatureSet

Floats = NDArray[np.float64]
_FAR = 60.0  # log-odds past which a float64 cannot tell a probability from 0 or 1


@dataclass(frozen=True, slots=True)
class HeadMetrics:
    """Of items; a clip counts once. NaN where it cannot be told. log_loss: in nats, unweighted.

    n, positives, groups: items, those with road work, and groups that must not be parted.
    """

    n: int
    positives: int
    groups: int
    log_loss: float
    accuracy: float
    auc: float
    mcc: float
    brier: float
    ece: float


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """Rows put together again. first: index of the first row of each item; logit: float64 [items]; truth: bool."""

    first: NDArray[np.int64]
    logit: Floats
    truth: NDArray[np.bool_]


def items(features: FeatureSet, logits: Floats) -> Items:
    """One logit an item: as stage 1 has it, of a clip's frames the mean of the two highest."""
    rows: dict[str, list[int]] = {}
    for at, name in enumerate(features.name):
        rows.setdefault(name, []).append(at)
    first = np.array([mine[0] for mine in rows.values()], dtype=np.int64)
    together = np.array([np.sort(logits[mine])[-2:].mean() for mine in rows.values()], dtype=np.float64)
    return Items(first, together, features.target[first] >= 0.5)


def head_metrics(features: FeatureSet, logits: Floats) -> HeadMetrics:
    """What logits [rows] are worth."""
    mine = items(features, logits)
    p = sigmoid(mine.logit)
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
    """Mean cross-entropy, nats, of logits [n] against probabilities [n]."""
    losses = np.logaddexp(0.0, logits) - target * logits
    return float(np.average(losses, weights=weight))


def sigmoid(logits: Floats) -> Floats:
    """Probabilities of log-odds."""
    return 1 / (1 + np.exp(-np.clip(logits, -_FAR, _FAR)))
