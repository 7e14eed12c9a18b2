"""What a stretch of answers was like, counted as they go by."""

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

EDGES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)  # of probabilities; scores crowd at the ends
ANSWER = "answer"  # the posterior that was answered with, among the scores of stages
_MODELS = 4  # backbones told apart


@dataclass(eq=False)
class Moments:
    """count: vectors. total, squares: float64 [width], the sums of them and of their squares."""

    count: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]


@dataclass(eq=False)
class TrafficStats:
    """exits: answers by stage and reason. scores: int64 [12] by stage, how many probabilities lie in each bin.

    moments: of the features, by backbone and width.
    """

    answers: int = 0
    exits: Counter[str] = field(default_factory=Counter[str])
    scores: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    moments: dict[tuple[str, int], Moments] = field(default_factory=dict[tuple[str, int], Moments])

    def add(self, entry: PredictionRecord) -> None:
        """Count an answer."""
        verdict = entry.verdict
        self.answers += 1
        self.exits[f"{verdict.exit.stage}: {verdict.exit.reason}"] += 1
        for stage, probability in scores_of(entry):
            bins = self.scores.get(stage)
            if bins is None:
                bins = self.scores[stage] = [0] * (len(EDGES) + 1)
            bins[bisect_right(EDGES, probability)] += 1
        vector = embedding(entry)
        if vector is None:
            return
        kind = entry.features_model, len(vector)
        if (held := self.moments.get(kind)) is None:
            if len(self.moments) >= _MODELS:
                return
            held = self.moments[kind] = Moments(0, np.zeros(len(vector)), np.zeros(len(vector)))
        held.count += 1
        held.total += vector
        held.squares += vector * vector

    def joined(self, other: "TrafficStats") -> "TrafficStats":
        """Both together, a new one."""
        scores = {stage: list(bins) for stage, bins in self.scores.items()}
        for stage, bins in other.scores.items():
            mine = scores.get(stage, [0] * len(bins))
            scores[stage] = [one + two for one, two in zip(mine, bins, strict=True)]
        moments = dict(self.moments)
        for kind, theirs in other.moments.items():
            if (mine := moments.get(kind)) is not None:
                theirs = Moments(mine.count + theirs.count, mine.total + theirs.total, mine.squares + theirs.squares)
            moments[kind] = theirs
        return TrafficStats(self.answers + other.answers, self.exits + other.exits, scores, moments)


def scores_of(entry: PredictionRecord) -> Iterable[tuple[str, float]]:
    """Stages that spoke for the answer with their own probability, and the answer with its own."""
    yield ANSWER, entry.verdict.probability
    for report in entry.verdict.stages:
        if report.probability is not None:
            yield report.stage, report.probability


@dataclass(eq=False)
class Extract:
    """A tally with a few of the scores and features themselves, drawn by lot.

    of_scores, of_features: how many are held, of each stage and of each backbone.
    """

    of_scores: int = 2000
    of_features: int = 300
    tally: TrafficStats = field(default_factory=TrafficStats)
    scores: dict[str, BottomK[float]] = field(default_factory=dict[str, BottomK[float]])
    vectors: dict[tuple[str, int], BottomK[NDArray[np.float32]]] = field(
        default_factory=dict[tuple[str, int], BottomK[NDArray[np.float32]]]
    )

    def add(self, entry: PredictionRecord) -> None:
        """Count an answer."""
        self.tally.add(entry)
        at = stable_uniform("0", entry.id)
        for stage, probability in scores_of(entry):
            self.scores.setdefault(stage, BottomK(self.of_scores)).add(probability, at)
        vector = embedding(entry)
        if vector is not None and (kind := (entry.features_model, len(vector))) in self.tally.moments:
            self.vectors.setdefault(kind, BottomK(self.of_features)).add(vector, at)


def psi(reference: Iterable[float], window: Iterable[float]) -> float:
    """The population stability index of counts in the same bins, half an answer added to each bin.

    By custom 0.1 is a change worth a look and 0.25 a large one. Without any change about
    (bins - 1) x (1 / reference + 1 / window) is to be expected of so many answers.
    """
    mine, theirs = (np.asarray(list(counts), float) + 0.5 for counts in (reference, window))
    mine, theirs = mine / mine.sum(), theirs / theirs.sum()
    return float(((theirs - mine) * np.log(theirs / mine)).sum())


def mean_shift(reference: Moments, window: Moments) -> float:
    """How far the means of features lie apart, in deviations of the reference: the root of the mean over dimensions,
    less what chance makes of so few; 0 where that is all."""
    if reference.count < 2 or window.count < 1:
        return 0.0
    mean = reference.total / reference.count
    spread = (reference.squares / reference.count - mean**2).clip(0)
    alive = spread > spread.max() * 1e-6
    if not alive.any():
        return 0.0
    shift = (window.total / window.count - mean) ** 2
    by_chance = 1 / reference.count + 1 / window.count
    return float(max(0.0, (shift[alive] / spread[alive]).mean() - by_chance) ** 0.5)
