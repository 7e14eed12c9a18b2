"""One turn of the wheel: from the journal to a head, a calibrated policy with a promise, and whether to go by it.

What heads learn from is never what they are judged by: of the answers that every stage has judged, drawn by lot, a part
is held back by group. Of that part some is for calibration and the line of exit bands, the rest tests the bound and
compares with the policy in force. Stages are calibrated as if nobody left early: what the bound measures exits against
is all of them together, and that must not get worse as the exits get more eager.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from roadwork_serve.calibration.calibrate import CalibrationResult, calibrate
from roadwork_serve.calibration.comparison import Comparison, PromotionCriteria, compare, predictions_under
from roadwork_serve.calibration.journal_rows import journal_rows
from roadwork_serve.calibration.policy_writer import write_policy
from roadwork_serve.calibration.rescore import rescore
from roadwork_serve.calibration.sources import with_head
from roadwork_serve.calibration.thresholds import TuningResult, TuningSettings, tune
from roadwork_serve.calibration.trajectories import without_early_exits
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.engines.features import Head
from roadwork_serve.engines.fingerprint import fingerprint
from roadwork_serve.engines.weights import weights_folder
from roadwork_serve.errors import ConfigError, RoadworkError
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.evaluation.splits import stable_uniforms
from roadwork_serve.heads.feature_set import FeatureSet
from roadwork_serve.heads.fit import HeadTraining
from roadwork_serve.heads.journal_features import features_from_journal
from roadwork_serve.heads.train import train_head
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.schema import MediaKind

_KINDS: tuple[MediaKind, ...] = ("photo", "clip")


@dataclass(frozen=True, slots=True)
class RetrainingSettings:
    """held: share of the surveyed answers that no head learns from; design: share of these that bands are drawn on."""

    risk_limit: float = 0.01
    confidence: float = 0.95
    held: float = 0.7
    design: float = 0.4
    margins: PromotionCriteria = field(default_factory=PromotionCriteria)
    head: HeadTraining = field(default_factory=HeadTraining)


@dataclass(frozen=True, slots=True)
class RetrainingResult:
    """folder: with head/, policy.yaml. learned, tested: answers that the head learned from, and that tested the policy.

    promoted: the policy should come into force; why, or why not.
    """

    folder: Path
    policy: Policy
    calibrated: CalibrationResult
    tuned: TuningResult
    comparisons: tuple[Comparison, ...]
    learned: int
    tested: int
    promoted: bool
    why: str


def retrain(
    cases: Sequence[JournalRow], champion: Policy, folder: Path, version: str, settings: RetrainingSettings
) -> RetrainingResult:
    """Train, calibrate, tune and compare with the policy in force. Writes into the folder, which must not be there yet.

    Raises ConfigError where the journal holds too little to learn from, or to judge by.
    """
    if folder.exists():
        raise ConfigError(f"{folder} is there already; name a new folder, so that no head is changed while it serves")
    held = _held(cases, settings.held)
    lesson = [case for case in cases if _group(case) not in held]
    features = _fingerprinted(features_from_journal(lesson, champion))
    train_head(features, settings.head, folder / "head", command=f"retraining of {version}")
    base = with_head(replace(champion, certificate=None), folder / "head")
    mine = [case for case in cases if _group(case) in held]
    before = {row.about.name: row for row in journal_rows(mine, champion)}
    kept = {case.entry.id: case.entry.features for case in mine if case.entry.features is not None}
    rows = rescore(list(before.values()), kept, Head.load(folder / "head"))
    if not rows:
        raise ConfigError(
            "no answer that every stage has judged is left to judge by; put rules with `survey: {share: 0.05}`"
        )
    drawn = stable_uniforms([row.about.group for row in rows], "design") < settings.design
    design = [row for row, mine in zip(rows, drawn, strict=True) if mine]
    test = [row for row, mine in zip(rows, drawn, strict=True) if not mine]
    for kind in _KINDS:
        if any(row.about.kind == kind for row in rows):
            base = without_early_exits(base, kind)
    made, told = calibrate(design, base, version)
    names = frozenset(row.about.name for row in design)
    bound = TuningSettings(settings.risk_limit, settings.confidence, rows_to_design=names, version=version)
    tuned = tune(rows, made, bound)
    comparisons = _compare(test, before, champion, tuned.policy, settings.margins)
    promoted, why = _decide(tuned, comparisons)
    write_policy(folder / "policy.yaml", tuned.policy, f"{'Promoted' if promoted else 'Kept back'}: {why}")
    return RetrainingResult(folder, tuned.policy, told, tuned, comparisons, len(features), len(test), promoted, why)


def _fingerprinted(features: FeatureSet) -> FeatureSet:
    """With the fingerprint of the backbone, where its weights are at hand."""
    try:
        return replace(features, backbone=fingerprint(weights_folder(features.model)))
    except RoadworkError:
        return features


def _compare(
    test: Sequence[EvaluationRow],
    before: dict[str, EvaluationRow],
    champion: Policy,
    challenger: Policy,
    margins: PromotionCriteria,
) -> tuple[Comparison, ...]:
    found: list[Comparison] = []
    for kind in _KINDS:
        mine = [row for row in test if row.about.kind == kind and row.about.scored]
        if mine:
            old = predictions_under([before[row.about.name] for row in mine], champion, kind)
            found.append(compare(old, predictions_under(mine, challenger, kind), kind, paired=True, margins=margins))
    return tuple(found)


def _decide(tuned: TuningResult, comparisons: Sequence[Comparison]) -> tuple[bool, str]:
    if tuned.policy.certificate is None:
        return False, tuned.why_not
    told = "; ".join(f"{each.media}s: {each.why}" for each in comparisons)
    promoted = all(each.verdict == "promote" for each in comparisons) and bool(comparisons)
    return promoted, "; ".join(part for part in (told, tuned.why_not) if part)


def _held(cases: Sequence[JournalRow], share: float) -> set[str]:
    """Groups of surveyed answers that no head learns from; of the same group always the same."""
    groups = sorted({_group(case) for case in cases if case.entry.audit is not None and case.audit is not None})
    return {group for group, lot in zip(groups, stable_uniforms(groups, "held"), strict=True) if lot < share}


def _group(case: JournalRow) -> str:
    return case.entry.key or case.entry.sha256
