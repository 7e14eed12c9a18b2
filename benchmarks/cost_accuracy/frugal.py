"""FrugalGPT's cascade (Chen, Zaharia, Zou 2023, arXiv:2305.05176) over the stages of stills, any of them left out."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmarks.cost_accuracy.methods import Bools, Floats, Method, Predictions, logits, stage_flops
from roadwork_serve.evaluation.rows import EvaluationRow

STAGES = ("backbone", "signs", "vlm", "reasoner")  # from the cheapest; without text the score of signs is low
NEVER = np.inf  # threshold of a stage that is left out
_THRESHOLDS = 30  # candidates at each stage but the last


@dataclass(frozen=True, slots=True)
class Candidate:
    """Thresholds of all stages but the last, with their results on the rows to which they are fitted."""

    thresholds: tuple[float, ...]
    cost_flops: float
    accuracy: float


@dataclass(frozen=True, slots=True, eq=False)
class _Answers:
    """A stage's answers to n rows, with the probability that each is correct."""

    roadwork: Bools
    score: Floats


class Frugal:
    """A FrugalGPT cascade: scores of answers, and thresholds on them, fitted to rows."""

    def __init__(self, rows: Sequence[EvaluationRow]) -> None:
        truth = np.array([row.metadata.label for row in rows], dtype=bool)
        self._scorers = {stage: _scorer(logits(rows, stage), truth) for stage in STAGES[:-1]}
        answers = self._answers(rows)
        levels = np.linspace(0, 1, _THRESHOLDS)
        grids = [(*np.unique(np.quantile(answer.score, levels)).tolist(), NEVER) for answer in answers[:-1]]
        #: All thresholds.
        self.candidates: list[Candidate] = []
        for thresholds in itertools.product(*grids):
            result = _run(answers, thresholds)
            accuracy = float(np.mean(result.roadwork == truth))
            self.candidates.append(Candidate(thresholds, float(result.cost_flops.mean()), accuracy))
        #: The Pareto front of the candidates, from the cheapest.
        self.front: list[Candidate] = []
        for candidate in sorted(self.candidates, key=lambda candidate: (candidate.cost_flops, -candidate.accuracy)):
            if not self.front or candidate.accuracy > self.front[-1].accuracy:
                self.front.append(candidate)

    def within(self, cost_flops: float) -> Candidate:
        """Return the most accurate candidate within this mean cost per item, on the rows to which it is fitted."""
        return [
            candidate for candidate in self.front if candidate.cost_flops <= cost_flops or candidate is self.front[0]
        ][-1]

    def method(self, thresholds: Sequence[float]) -> Method:
        """Return the cascade with these thresholds."""
        return lambda rows: _run(self._answers(rows), thresholds)

    def _answers(self, rows: Sequence[EvaluationRow]) -> list[_Answers]:
        result = list[_Answers]()
        for stage in STAGES:
            stage_logits = logits(rows, stage)
            scorer = self._scorers.get(stage)
            score = np.ones(len(rows)) if scorer is None else scorer.predict_proba(_features(stage_logits))[:, 1]
            result.append(_Answers(stage_logits >= 0, score))
        return result


def _scorer(stage_logits: Floats, truth: Bools) -> LogisticRegression | None:
    """Fit a model that predicts whether an answer is correct; None if all or none are."""
    correct = (stage_logits >= 0) == truth
    return LogisticRegression().fit(_features(stage_logits), correct) if 0 < correct.sum() < len(correct) else None


def _features(stage_logits: Floats) -> NDArray[np.float64]:
    """Return the features of the scorer, [n, 2]: the absolute logit and the logit."""
    return np.stack([np.abs(stage_logits), stage_logits], axis=1)


def _run(answers: Sequence[_Answers], thresholds: Sequence[float]) -> Predictions:
    """Run the stages in order until an answer's score reaches the threshold; that of the last stage always does."""
    n = len(answers[0].roadwork)
    roadwork, cost_flops, active = np.zeros(n, dtype=bool), np.zeros(n), np.ones(n, dtype=bool)
    for stage, answer, threshold in zip(STAGES, answers, (*thresholds, -np.inf), strict=True):
        if threshold != NEVER:
            cost_flops += active * stage_flops(stage)
            exiting = active & (answer.score >= threshold)
            roadwork[exiting] = answer.roadwork[exiting]
            active &= ~exiting
    return Predictions(roadwork, cost_flops)
