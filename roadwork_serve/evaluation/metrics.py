"""Classification metrics in pure numpy.

`truth` is always a bool array of shape [n] and `score` a float array of shape [n], which is P(active road work) where
a metric needs a probability. A metric that the sample does not define (no items, a single class) is NaN.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.subnet_reward import rewards

Truth = NDArray[np.bool_]
Scores = NDArray[np.float64]

ECE_BINS = 15


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts of items: true and false positives and negatives."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def n(self) -> int:
        """Number of items."""
        return self.tp + self.fp + self.fn + self.tn


def confusion(truth: Truth, predicted: Truth) -> Confusion:
    """Count the predicted labels against the true ones."""
    return Confusion(
        tp=int(np.sum(truth & predicted)),
        fp=int(np.sum(~truth & predicted)),
        fn=int(np.sum(truth & ~predicted)),
        tn=int(np.sum(~truth & ~predicted)),
    )


def accuracy(truth: Truth, predicted: Truth) -> float:
    """Return the share of correct labels."""
    return float(np.mean(truth == predicted)) if truth.size else math.nan


def balanced_accuracy(truth: Truth, predicted: Truth) -> float:
    """Return the mean of the shares of positives and of negatives that have the correct label."""
    c = confusion(truth, predicted)
    if not c.tp + c.fn or not c.tn + c.fp:
        return math.nan
    return (c.tp / (c.tp + c.fn) + c.tn / (c.tn + c.fp)) / 2


def mcc(truth: Truth, predicted: Truth) -> float:
    """Return the Matthews correlation coefficient; 0 when either side has a single class, as in scikit-learn."""
    c = confusion(truth, predicted)
    if c.n == 0:
        return math.nan
    product = (c.tp + c.fp) * (c.tp + c.fn) * (c.tn + c.fp) * (c.tn + c.fn)
    return (c.tp * c.tn - c.fp * c.fn) / math.sqrt(product) if product else 0.0


def auc(truth: Truth, score: Scores) -> float:
    """Return the area under the ROC curve; ties count half.

    Computed from the rank sum (Mann-Whitney U), with tied scores sharing their mean rank.
    """
    positives = int(np.sum(truth))
    negatives = truth.size - positives
    if not positives or not negatives:
        return math.nan
    _, index, count = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    rank = (last - (count - 1) / 2)[index]
    above = float(np.sum(rank[truth])) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def brier(truth: Truth, probability: Scores) -> float:
    """Return the Brier score: the mean squared error of the probability."""
    return float(np.mean((probability - truth) ** 2)) if truth.size else math.nan


def ece(truth: Truth, probability: Scores, bins: int = ECE_BINS) -> float:
    """Return the expected calibration error over bins of equal width (Guo et al., 2017; 15 bins).

    The mean gap between a bin's mean probability and its share of positives, weighted by its number of items.
    """
    if not truth.size:
        return math.nan
    bin_index = np.minimum((probability * bins).astype(np.int64), bins - 1)
    gap = np.bincount(bin_index, weights=probability - truth, minlength=bins)
    return float(np.sum(np.abs(gap)) / truth.size)


def reward(truth: Truth, probability: Scores) -> float:
    """Return the mean reward Subnet 72 would have paid for these answers, in this order; at most 1.

    The mean over all items of the reward after each, see `subnet_reward`. The class is round(p), so exactly 0.5 is
    none.
    """
    if not truth.size:
        return math.nan
    return float(np.mean(rewards((probability > 0.5).tolist(), truth.astype(bool).tolist())))


def best_threshold(truth: Truth, score: Scores) -> tuple[float, float]:
    """Return the threshold with the highest accuracy on this sample, and that accuracy.

    Being chosen on the sample itself, the accuracy is optimistic. Scores at or above the threshold count as roadwork.
    """
    if not truth.size:
        return math.nan, math.nan
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    right = np.concatenate(([0], np.cumsum(np.where(truth[order], 1, -1)))) + np.sum(~truth)
    cut = np.concatenate(([True], ranked[1:] != ranked[:-1], [True]))  # only between different scores
    best = int(np.argmax(np.where(cut, right, -1)))
    return (math.inf if best == 0 else float(ranked[best - 1])), float(right[best] / truth.size)
