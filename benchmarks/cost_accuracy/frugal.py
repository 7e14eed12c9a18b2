"""FrugalGPT's cascade (Chen, Zaharia, Zou 2023, arXiv:2305.05176) over the stages of stills, any of them left out."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmarks.cost_accuracy.ways import Bools, Floats, Judged, Way, logits, price
from roadwork_serve.evaluation.rows import EvaluationRow

STAGES = ("backbone", "signs", "vlm", "reasoner")  # from the cheapest; where the signs are silent their score is low
NEVER = np.inf  # a threshold that says: do not ask this stage at all
_THRESHOLDS = 30  # tried at each stage but the last


@dataclass(frozen=True, slots=True)
class Tried:
    """Thresholds of all stages but the last, and what they came to on the rows they are fitted to."""

    thresholds: tuple[float, ...]
    flop: float
    accuracy: float


@dataclass(frozen=True, slots=True, eq=False)
class _Answers:
    """A stage's answers to n rows, and how likely each is right. said, score: [n]."""

    said: Bools
    score: Floats


class Frugal:
    """Scores of answers and thresholds on them, fitted to rows.

    tried: all thresholds. line: those that no others beat on these rows, from the cheapest to the most careful.
    """

    def __init__(self, rows: Sequence[EvaluationRow]) -> None:
        truth = np.array([row.metadata.label for row in rows], dtype=bool)
        self._scorers = {stage: _scorer(logits(rows, stage), truth) for stage in STAGES[:-1]}
        answers = self._answers(rows)
        levels = np.linspace(0, 1, _THRESHOLDS)
        grids = [(*np.unique(np.quantile(each.score, levels)).tolist(), NEVER) for each in answers[:-1]]
        self.tried: list[Tried] = []
        for thresholds in itertools.product(*grids):
            found = _walk(answers, thresholds)
            self.tried.append(Tried(thresholds, float(found.flop.mean()), float(np.mean(found.said == truth))))
        self.line: list[Tried] = []
        for each in sorted(self.tried, key=lambda each: (each.flop, -each.accuracy)):
            if not self.line or each.accuracy > self.line[-1].accuracy:
                self.line.append(each)

    def within(self, flop: float) -> Tried:
        """Return the most accurate for a mean item of this budget, on the rows it is fitted to."""
        return [each for each in self.line if each.flop <= flop or each is self.line[0]][-1]

    def judge(self, thresholds: Sequence[float]) -> Way:
        """Return the cascade with these thresholds."""
        return lambda rows: _walk(self._answers(rows), thresholds)

    def _answers(self, rows: Sequence[EvaluationRow]) -> list[_Answers]:
        found = list[_Answers]()
        for stage in STAGES:
            said = logits(rows, stage)
            scorer = self._scorers.get(stage)
            sure = np.ones(len(rows)) if scorer is None else scorer.predict_proba(_features(said))[:, 1]
            found.append(_Answers(said >= 0, sure))
        return found


def _scorer(said: Floats, truth: Bools) -> LogisticRegression | None:
    """Of whether an answer is right; None where all are or none is."""
    right = (said >= 0) == truth
    return LogisticRegression().fit(_features(said), right) if 0 < right.sum() < len(right) else None


def _features(said: Floats) -> NDArray[np.float64]:
    """[n, 2]: how sure the stage is, and which way it answered."""
    return np.stack([np.abs(said), said], axis=1)


def _walk(answers: Sequence[_Answers], thresholds: Sequence[float]) -> Judged:
    """From stage to stage until an answer's score is high enough; the last stage's always is."""
    n = len(answers[0].said)
    said, flop, there = np.zeros(n, dtype=bool), np.zeros(n), np.ones(n, dtype=bool)
    for stage, answer, threshold in zip(STAGES, answers, (*thresholds, -np.inf), strict=True):
        if threshold != NEVER:
            flop += there * price(stage)
            out = there & (answer.score >= threshold)
            said[out] = answer.said[out]
            there &= ~out
    return Judged(said, flop)
