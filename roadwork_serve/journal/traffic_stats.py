"""Running statistics of a stretch of predictions, for drift detection."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.hashing import stable_uniform
from roadwork_serve.journal.bottom_k import BottomK
from roadwork_serve.journal.novelty import embedding
from roadwork_serve.journal.record import PredictionRecord

#: Edges of the histogram of probabilities, which crowd at both ends.
EDGES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
#: Name of the verdict's own probability, the posterior, among the scores of stages.
VERDICT = "verdict"
_MODELS = 4  # backbones with statistics of their own


@dataclass(eq=False)
class Moments:
    """Moments of feature vectors."""

    #: Number of vectors.
    count: int
    #: Sum of the vectors, float64 [width].
    total: NDArray[np.float64]
    #: Sum of their squares, float64 [width].
    squares: NDArray[np.float64]


@dataclass(eq=False)
class TrafficStats:
    """Counts over predictions."""

    predictions: int = 0
    #: Predictions by exit stage and reason.
    exits: Counter[str] = field(default_factory=Counter[str])
    #: Histogram of probabilities by stage, twelve bins each.
    scores: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    #: Moments of the features by backbone and width.
    moments: dict[tuple[str, int], Moments] = field(default_factory=dict[tuple[str, int], Moments])

    def add(self, prediction: PredictionRecord) -> None:
        """Count a prediction."""
        verdict = prediction.verdict
        self.predictions += 1
        self.exits[f"{verdict.exit.stage}: {verdict.exit.reason}"] += 1
        for stage, probability in probabilities(prediction):
            bins = self.scores.get(stage)
            if bins is None:
                bins = self.scores[stage] = [0] * (len(EDGES) + 1)
            bins[bisect_right(EDGES, probability)] += 1
        vector = embedding(prediction)
        if vector is None:
            return
        kind = prediction.features_model, len(vector)
        if (moments := self.moments.get(kind)) is None:
            if len(self.moments) >= _MODELS:
                return
            moments = self.moments[kind] = Moments(0, np.zeros(len(vector)), np.zeros(len(vector)))
        moments.count += 1
        moments.total += vector
        moments.squares += vector * vector

    def merged(self, other: "TrafficStats") -> "TrafficStats":
        """Return new statistics over the predictions of both."""
        scores = {stage: list(bins) for stage, bins in self.scores.items()}
        for stage, bins in other.scores.items():
            mine = scores.get(stage, [0] * len(bins))
            scores[stage] = [one + two for one, two in zip(mine, bins, strict=True)]
        moments = dict(self.moments)
        for kind, theirs in other.moments.items():
            if (mine := moments.get(kind)) is not None:
                theirs = Moments(mine.count + theirs.count, mine.total + theirs.total, mine.squares + theirs.squares)
            moments[kind] = theirs
        return TrafficStats(self.predictions + other.predictions, self.exits + other.exits, scores, moments)


def probabilities(prediction: PredictionRecord) -> Iterable[tuple[str, float]]:
    """Yield the verdict's probability, then the uncalibrated probability of each stage that returned one."""
    yield VERDICT, prediction.verdict.probability
    for report in prediction.verdict.stages:
        if report.probability is not None:
            yield report.stage, report.probability


@dataclass(eq=False)
class TrafficSample:
    """Statistics, with a random sample of the scores and features behind them."""

    #: Scores to keep for each stage.
    max_scores: int = 2000
    #: Vectors to keep for each backbone.
    max_vectors: int = 300
    stats: TrafficStats = field(default_factory=TrafficStats)
    scores: dict[str, BottomK[float]] = field(default_factory=dict[str, BottomK[float]])
    vectors: dict[tuple[str, int], BottomK[NDArray[np.float32]]] = field(
        default_factory=dict[tuple[str, int], BottomK[NDArray[np.float32]]]
    )

    def add(self, prediction: PredictionRecord) -> None:
        """Count a prediction."""
        self.stats.add(prediction)
        key = stable_uniform("0", prediction.id)
        for stage, probability in probabilities(prediction):
            self.scores.setdefault(stage, BottomK(self.max_scores)).add(probability, key)
        vector = embedding(prediction)
        if vector is not None and (kind := (prediction.features_model, len(vector))) in self.stats.moments:
            self.vectors.setdefault(kind, BottomK(self.max_vectors)).add(vector, key)


def psi(reference: Iterable[float], window: Iterable[float]) -> float:
    """Return the population stability index of counts in the same bins, with half a count added to each bin.

    By convention 0.1 is a change worth attention and 0.25 a large one. Without any change about
    (bins - 1) x (1 / reference + 1 / window) is expected.
    """
    mine, theirs = (np.asarray(list(counts), float) + 0.5 for counts in (reference, window))
    mine, theirs = mine / mine.sum(), theirs / theirs.sum()
    return float(((theirs - mine) * np.log(theirs / mine)).sum())


def mean_shift(reference: Moments, window: Moments) -> float:
    """Return the distance of the feature means in standard deviations of the reference.

    It is the root mean square over dimensions, less the part that sampling alone explains; never below 0.
    """
    if reference.count < 2 or window.count < 1:
        return 0.0
    mean = reference.total / reference.count
    variance = (reference.squares / reference.count - mean**2).clip(0)
    alive = variance > variance.max() * 1e-6
    if not alive.any():
        return 0.0
    shift = (window.total / window.count - mean) ** 2
    by_chance = 1 / reference.count + 1 / window.count
    return float(max(0.0, (shift[alive] / variance[alive]).mean() - by_chance) ** 0.5)
