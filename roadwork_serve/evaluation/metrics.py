"""How good a set of answers is. Pure numpy.

Everywhere `truth` is a bool array of shape [n], `score` a float array of shape [n], P(active road
work) where a metric reads it as a probability. What cannot be told from the sample (no items, one
class only) is NaN, never a flattering number.
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
        return self.tp + self.fp + self.fn + self.tn


def confusion(truth: Truth, said: Truth) -> Confusion:
    """What was said against what is true."""
    return Confusion(
        tp=int(np.sum(truth & said)),
        fp=int(np.sum(~truth & said)),
        fn=int(np.sum(truth & ~said)),
        tn=int(np.sum(~truth & ~said)),
    )


def accuracy(truth: Truth, said: Truth) -> float:
    """Share of items labelled right."""
    return float(np.mean(truth == said)) if truth.size else math.nan


def mcc(truth: Truth, said: Truth) -> float:
    """Matthews correlation coefficient; 0 where one class is missing in either, as scikit-learn has it."""
    c = confusion(truth, said)
    if c.n == 0:
        return math.nan
    spread = (c.tp + c.fp) * (c.tp + c.fn) * (c.tn + c.fp) * (c.tn + c.fn)
    return (c.tp * c.tn - c.fp * c.fn) / math.sqrt(spread) if spread else 0.0


def auc(truth: Truth, score: Scores) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, a tie counting half.

    From the rank sum (Mann-Whitney U), ties sharing their mean rank.
    """
    positives = int(np.sum(truth))
    negatives = truth.size - positives
    if not positives or not negatives:
        return math.nan
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    rank = (last - (count - 1) / 2)[place]
    above = float(np.sum(rank[truth])) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def brier(truth: Truth, probability: Scores) -> float:
    """Mean squared distance of the probability from what is true."""
    return float(np.mean((probability - truth) ** 2)) if truth.size else math.nan


def ece(truth: Truth, probability: Scores, bins: int = ECE_BINS) -> float:
    """Expected calibration error of P(roadwork) over bins of equal width (Guo et al., 2017; 15 bins).

    Mean distance between a bin's mean probability and its share of positives, weighted by its items.
    """
    if not truth.size:
        return math.nan
    which = np.minimum((probability * bins).astype(np.int64), bins - 1)
    gap = np.bincount(which, weights=probability - truth, minlength=bins)
    return float(np.sum(np.abs(gap)) / truth.size)


def reward(truth: Truth, probability: Scores) -> float:
    """What Subnet 72 would have paid on average for these answers, in this order; 1 at best.

    The mean over all items of what is paid after each, see `subnet_reward`. The class is round(p), so that
    exactly 0.5 is none.
    """
    if not truth.size:
        return math.nan
    return float(np.mean(rewards((probability > 0.5).tolist(), truth.astype(bool).tolist())))


def best_threshold(truth: Truth, score: Scores) -> tuple[float, float]:
    """The threshold with the highest accuracy on this very sample, and that accuracy: an upper limit, not a forecast.

    A score from the threshold up counts as roadwork.
    """
    if not truth.size:
        return math.nan, math.nan
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    right = np.concatenate(([0], np.cumsum(np.where(truth[order], 1, -1)))) + np.sum(~truth)
    cut = np.concatenate(([True], ranked[1:] != ranked[:-1], [True]))  # only between different scores
    best = int(np.argmax(np.where(cut, right, -1)))
    return (math.inf if best == 0 else float(ranked[best - 1])), float(right[best] / truth.size)
