"""Active learning: a score of how much a human label of a prediction would teach.

Close decisions, disagreement, early exits under pressure, contradiction by people and novel images score high.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice

from roadwork_serve.hashing import stable_uniform
from roadwork_serve.journal.bottom_k import BottomK
from roadwork_serve.journal.duplicates import DuplicateFinder, DuplicateRule
from roadwork_serve.journal.novelty import ReferenceSet
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.schema import Verdict

_BATCH = 512
_SPARE = 10  # candidates for each row to return, since near-duplicates are removed


@dataclass(frozen=True, slots=True)
class ScoreWeights:
    """The informativeness, 0 to 1, that each reason contributes at full strength.

    Reasons combine as 1 - prod(1 - weight x strength): each one raises the score, none raises it above 1.
    """

    #: A person gave another label.
    mislabeled: float = 0.9
    #: A shadow policy, or a stage of an audit, disagrees: the distance of the probabilities, or its confidence in the
    #: opposite.
    deferred: float = 0.6
    #: The posterior is close to the decision threshold: 1 at it, 0 at certainty.
    margin: float = 0.5
    #: The stages disagree: the range of their probabilities, or the confidence of one in the opposite of the verdict.
    stages: float = 0.4
    #: See `novelty.ReferenceSet`.
    novelty: float = 0.4
    #: The largest probability mass that a vision-language model gave to tokens other than yes and no.
    other_token_mass: float = 0.3
    #: The deadline ended the cascade, or later stages failed.
    deadline: float = 0.25
    #: A required stage was missing.
    degraded: float = 0.25


WEIGHTS = ScoreWeights()
REASONS = tuple(each.name for each in fields(ScoreWeights))


@dataclass(frozen=True, slots=True)
class ActiveLearningScore:
    """The informativeness of a prediction, and the reasons for it."""

    #: 0 to 1.
    value: float
    #: Name and strength of each reason that applies, the largest contribution first.
    reasons: tuple[tuple[str, float], ...]
    #: NaN if unknown.
    novelty: float = math.nan

    def __str__(self) -> str:
        return ", ".join(f"{name} {strength:.2f}" for name, strength in self.reasons)


@dataclass(frozen=True, slots=True, eq=False)
class RankedRow:
    """An informative row."""

    row: JournalRow
    score: ActiveLearningScore
    #: Number of duplicates that were left out in its favour.
    duplicates: int = 0


def informativeness(
    row: JournalRow, novelty: float = math.nan, weights: ScoreWeights = WEIGHTS, decision_threshold: float = 0.5
) -> ActiveLearningScore:
    """Return the score of a row.

    Args:
        row: the prediction.
        novelty: 0 to 1, NaN if unknown.
        weights: contribution of each reason.
        decision_threshold: of the policy that made the prediction.
    """
    verdict, annotation = row.prediction.verdict, row.annotation
    label = None if annotation is None else annotation.label
    strengths = (
        float(label is not None and label != verdict.label),
        _deferred_disagreement(row),
        _margin(verdict.probability, decision_threshold),
        _stage_disagreement(verdict),
        0.0 if math.isnan(novelty) else float(novelty),
        max((report.evidence.other_token_mass or 0.0 for report in verdict.stages), default=0.0),
        float(verdict.exit.reason in ("deadline", "failed")),
        float(verdict.degraded),
    )
    left, reasons = 1.0, list[tuple[float, str, float]]()
    for name, strength in zip(REASONS, strengths, strict=True):
        if (contribution := getattr(weights, name) * strength) > 0:
            left *= 1 - contribution
            reasons.append((contribution, name, strength))
    reasons.sort(reverse=True)
    return ActiveLearningScore(1 - left, tuple((name, strength) for _, name, strength in reasons), float(novelty))


def scored_rows(
    rows: Iterable[JournalRow],
    reference: ReferenceSet | None = None,
    weights: ScoreWeights = WEIGHTS,
    decision_threshold: float = 0.5,
) -> Iterator[tuple[JournalRow, ActiveLearningScore]]:
    """Yield each row with its score, in their order. A few hundred are in memory at a time."""
    left = iter(rows)
    while batch := list(islice(left, _BATCH)):
        novelties: Sequence[float] = [math.nan] * len(batch)
        if reference is not None:
            novelties = reference.novelty([row.prediction for row in batch]).tolist()
        for row, novelty in zip(batch, novelties, strict=True):
            yield row, informativeness(row, novelty, weights, decision_threshold)


def most_informative(
    rows: Iterable[JournalRow],
    count: int,
    reference: ReferenceSet | None = None,
    weights: ScoreWeights = WEIGHTS,
    decision_threshold: float = 0.5,
    rule: DuplicateRule | None = None,
) -> list[RankedRow]:
    """Return the `count` most informative rows, the best first, without duplicates of better ones.

    Holds ten candidates for each in memory. If most of those are duplicates, fewer rows are returned.
    """
    candidates: BottomK[tuple[JournalRow, ActiveLearningScore]] = BottomK(count * _SPARE)
    for row, score in scored_rows(rows, reference, weights, decision_threshold):
        candidates.add((row, score), -score.value, stable_uniform("0", row.prediction.id))
    finder = DuplicateFinder(rule, window=count * _SPARE)
    distinct: dict[str, tuple[JournalRow, ActiveLearningScore]] = {}
    duplicates: dict[str, int] = {}
    for row, score in candidates.ordered():
        first = finder.duplicate_of(row.prediction)
        if first is not None:
            duplicates[first] = duplicates.get(first, 0) + 1
        else:
            distinct[row.prediction.id] = row, score
    best = islice(distinct.items(), count)
    return [RankedRow(row, score, duplicates.get(name, 0)) for name, (row, score) in best]


def _margin(probability: float, decision_threshold: float) -> float:
    room = 1 - decision_threshold if probability >= decision_threshold else decision_threshold
    return 1 - abs(probability - decision_threshold) / room if room else 0.0


def _stage_disagreement(verdict: Verdict) -> float:
    found = [report.probability for report in verdict.stages if report.probability is not None]
    if not found:
        return 0.0
    return max(max(found) - min(found), *(_opposition(each, verdict) for each in found))


def _deferred_disagreement(row: JournalRow) -> float:
    verdict = row.prediction.verdict
    audit = [_opposition(each.probability, verdict) for each in row.audit or () if each.probability is not None]
    shadows = [abs(shadow.probability - verdict.probability) for shadow in row.shadows if shadow.label != verdict.label]
    return max((*audit, *shadows), default=0.0)


def _opposition(probability: float, verdict: Verdict) -> float:
    """Return a stage's confidence in the opposite of the verdict, 0 to 1."""
    against = 1 - probability if verdict.positive else probability
    return max(0.0, 2 * against - 1)
