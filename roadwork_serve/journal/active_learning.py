"""Which answers teach most: those that were close, contested, cut short, contradicted, or of something new."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice

from roadwork_serve.hashing import stable_uniform
from roadwork_serve.journal.bottom_k import BottomK
from roadwork_serve.journal.duplicates import DuplicateFinder, DuplicateRule
from roadwork_serve.journal.novelty import ReferenceSet
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.schema import StageReport, Verdict

_AT_A_TIME = 512
_SPARE = 10  # candidates for each that is shown, since near-duplicates fall out


@dataclass(frozen=True, slots=True)
class ScoreWeights:
    """The hardness, 0 to 1, that each reason alone gives an answer for which it holds in full.

    Reasons are taken together as 1 - prod(1 - weight x strength): each more makes an answer harder, none past 1.

    wrong: a person said otherwise. beside: a shadow, or a stage that was asked later, said otherwise: how far apart,
    or how sure of the opposite. margin: how near the posterior is to the decision, 1 at it and 0 at certainty.
    stages: how far apart the words of the stages that were asked lie, or how sure one was of the opposite of the
    answer. novelty: see `novelty.Reference`. other_token_mass: the most mass a VLM gave to words that are neither yes nor no.
    deadline: it left because the time ran out, or later stages failed. degraded: a stage that was wanted was missing.
    """

    wrong: float = 0.9
    beside: float = 0.6
    margin: float = 0.5
    stages: float = 0.4
    novelty: float = 0.4
    other_token_mass: float = 0.3
    deadline: float = 0.25
    degraded: float = 0.25


WEIGHTS = ScoreWeights()
REASONS = tuple(each.name for each in fields(ScoreWeights))


@dataclass(frozen=True, slots=True)
class ActiveLearningScore:
    """How hard an answer was, 0 to 1. reasons: the strength of each that holds at all, what weighs most first.
    novelty: NaN where nothing is known of it."""

    value: float
    reasons: tuple[tuple[str, float], ...]
    novelty: float = math.nan

    def __str__(self) -> str:
        return ", ".join(f"{name} {strength:.2f}" for name, strength in self.reasons)


@dataclass(frozen=True, slots=True, eq=False)
class RankedRow:
    """A hard answer. repeats: how many that showed the same were left out for it."""

    case: JournalRow
    score: ActiveLearningScore
    repeats: int = 0


def informativeness(
    case: JournalRow, novelty: float = math.nan, weights: ScoreWeights = WEIGHTS, decision_threshold: float = 0.5
) -> ActiveLearningScore:
    """How hard a case was. novelty: 0 to 1, NaN where it is not known. decide_at: of the policy it was answered by."""
    verdict, mark = case.entry.verdict, case.mark
    strengths = (
        float(mark is not None and mark.label is not None and mark.label != verdict.label),
        _beside(case),
        _margin(verdict.probability, decision_threshold),
        _contested(verdict),
        0.0 if math.isnan(novelty) else float(novelty),
        max((report.evidence.other_token_mass or 0.0 for report in verdict.stages), default=0.0),
        float(verdict.exit.reason in ("deadline", "failed")),
        float(verdict.degraded),
    )
    left, reasons = 1.0, list[tuple[float, str, float]]()
    for name, strength in zip(REASONS, strengths, strict=True):
        if (counts := getattr(weights, name) * strength) > 0:
            left *= 1 - counts
            reasons.append((counts, name, strength))
    reasons.sort(reverse=True)
    return ActiveLearningScore(1 - left, tuple((name, strength) for _, name, strength in reasons), float(novelty))


def scored_rows(
    cases: Iterable[JournalRow],
    reference: ReferenceSet | None = None,
    weights: ScoreWeights = WEIGHTS,
    decision_threshold: float = 0.5,
) -> Iterator[tuple[JournalRow, ActiveLearningScore]]:
    """Each case with its hardness, in the order in which they come; a few hundred are held at a time."""
    left = iter(cases)
    while some := list(islice(left, _AT_A_TIME)):
        novelties: Sequence[float] = [math.nan] * len(some)
        if reference is not None:
            novelties = reference.novelty([case.entry for case in some]).tolist()
        for case, novelty in zip(some, novelties, strict=True):
            yield case, informativeness(case, novelty, weights, decision_threshold)


def most_informative(
    cases: Iterable[JournalRow],
    count: int,
    reference: ReferenceSet | None = None,
    weights: ScoreWeights = WEIGHTS,
    decision_threshold: float = 0.5,
    likeness: DuplicateRule | None = None,
) -> list[RankedRow]:
    """The hardest, at most `count` of them, the hardest first; of those that show the same only the hardest.

    Holds ten candidates for each at most, however many cases come; where most of these repeat one another there are
    fewer than asked for.
    """
    candidates: BottomK[tuple[JournalRow, ActiveLearningScore]] = BottomK(count * _SPARE)
    for case, how in scored_rows(cases, reference, weights, decision_threshold):
        candidates.add((case, how), -how.value, stable_uniform("0", case.entry.id))
    seen, shown, repeats = (
        DuplicateFinder(likeness, window=count * _SPARE),
        dict[str, tuple[JournalRow, ActiveLearningScore]](),
        dict[str, int](),
    )
    for case, how in candidates.ordered():
        first = seen.repeated(case.entry)
        if first is not None:
            repeats[first] = repeats.get(first, 0) + 1
        else:
            shown[case.entry.id] = case, how
    return [RankedRow(case, how, repeats.get(name, 0)) for name, (case, how) in islice(shown.items(), count)]


def _margin(probability: float, decision_threshold: float) -> float:
    room = 1 - decision_threshold if probability >= decision_threshold else decision_threshold
    return 1 - abs(probability - decision_threshold) / room if room else 0.0


def _contested(verdict: Verdict) -> float:
    words = [report.probability for report in verdict.stages if report.probability is not None]
    if not words:
        return 0.0
    return max(max(words) - min(words), *(_opposed(word, verdict) for word in words))


def _beside(case: JournalRow) -> float:
    verdict = case.entry.verdict
    said = [_opposed(report.probability, verdict) for report in case.audit or () if _spoke(report)]
    apart = [abs(shadow.probability - verdict.probability) for shadow in case.shadows if shadow.label != verdict.label]
    return max((*said, *apart), default=0.0)


def _spoke(report: StageReport) -> bool:
    return report.probability is not None


def _opposed(word: float | None, verdict: Verdict) -> float:
    """How sure a stage was of the opposite of the answer, 0 to 1."""
    if word is None:
        return 0.0
    against = 1 - word if verdict.label == "roadwork" else word
    return max(0.0, 2 * against - 1)
