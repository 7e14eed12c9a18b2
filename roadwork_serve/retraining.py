"""One retraining cycle: from a journal to a new head, a tuned policy with a certificate, and a promotion decision.

Heads are never evaluated on their training data: of the audited predictions, a share of the groups is held out. One
part of the holdout is for calibration and for the path of exit bands; the rest tests the bound and compares the new
policy with the current one. Stages are calibrated without early exits: early-exit errors are counted
against the full cascade, whose accuracy must not drop as exit bands get narrower.
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
    """Settings of a retraining cycle."""

    #: Upper bound on the share of items with an early-exit error.
    risk_limit: float = 0.01
    confidence: float = 0.95
    #: Share of the audited groups that is held out from head training.
    holdout: float = 0.7
    #: Share of the holdout that calibration and exit bands are fitted to; the rest is the test.
    calibration_share: float = 0.4
    criteria: PromotionCriteria = field(default_factory=PromotionCriteria)
    head: HeadTraining = field(default_factory=HeadTraining)


@dataclass(frozen=True, slots=True)
class RetrainingResult:
    """The outcome of a retraining cycle."""

    #: Holds head/ and policy.yaml.
    folder: Path
    policy: Policy
    calibration: CalibrationResult
    tuning: TuningResult
    comparisons: tuple[Comparison, ...]
    #: Number of predictions that the head was trained on.
    trained_on: int
    #: Number of predictions that the policy was tested on.
    tested_on: int
    #: Whether the policy should be deployed.
    promoted: bool
    #: Reason for or against promotion.
    reason: str


def retrain(
    cases: Sequence[JournalRow], champion: Policy, folder: Path, version: str, settings: RetrainingSettings
) -> RetrainingResult:
    """Train, calibrate, tune, and compare with the current policy. Writes to the folder, which must not exist.

    Raises ConfigError when the journal holds too little to train on, or to test with.
    """
    if folder.exists():
        raise ConfigError(f"{folder} already exists; give a new folder, so that no head changes while it is served")
    holdout = _holdout_groups(cases, settings.holdout)
    features = _with_fingerprint(
        features_from_journal([case for case in cases if _group(case) not in holdout], champion)
    )
    train_head(features, settings.head, folder / "head", command=f"retraining of {version}")
    base = with_head(champion.model_copy(update={"certificate": None}), folder / "head")
    held_out = [case for case in cases if _group(case) in holdout]
    champion_rows = {row.metadata.name: row for row in journal_rows(held_out, champion)}
    stored = {case.prediction.id: case.prediction.features for case in held_out if case.prediction.features is not None}
    rows = rescore(list(champion_rows.values()), stored, Head.load(folder / "head"))
    if not rows:
        raise ConfigError(
            "the journal holds no audited prediction to test with; collect some with `audit: {share: 0.05}` in the "
            "rollout"
        )
    for_calibration = stable_uniforms([row.metadata.group for row in rows], "design") < settings.calibration_share
    calibration_rows = [row for row, chosen in zip(rows, for_calibration, strict=True) if chosen]
    test_rows = [row for row, chosen in zip(rows, for_calibration, strict=True) if not chosen]
    for kind in _KINDS:
        if any(row.metadata.kind == kind for row in rows):
            base = without_early_exits(base, kind)
    calibrated, calibration = calibrate(calibration_rows, base, version)
    names = frozenset(row.metadata.name for row in calibration_rows)
    bound = TuningSettings(settings.risk_limit, settings.confidence, calibration_rows=names, version=version)
    tuning = tune(rows, calibrated, bound)
    comparisons = _compare(test_rows, champion_rows, champion, tuning.policy, settings.criteria)
    promoted, reason = _decide(tuning, comparisons)
    write_policy(folder / "policy.yaml", tuning.policy, f"{'Promoted' if promoted else 'Not promoted'}: {reason}")
    return RetrainingResult(
        folder, tuning.policy, calibration, tuning, comparisons, len(features), len(test_rows), promoted, reason
    )


def _with_fingerprint(features: FeatureSet) -> FeatureSet:
    """Add the fingerprint of the backbone, if its weights are installed."""
    try:
        return replace(features, backbone=fingerprint(weights_folder(features.model)))
    except RoadworkError:
        return features


def _compare(
    test_rows: Sequence[EvaluationRow],
    champion_rows: dict[str, EvaluationRow],
    champion: Policy,
    challenger: Policy,
    criteria: PromotionCriteria,
) -> tuple[Comparison, ...]:
    found: list[Comparison] = []
    for kind in _KINDS:
        rows = [row for row in test_rows if row.metadata.kind == kind and not row.metadata.ignore]
        if rows:
            old = predictions_under([champion_rows[row.metadata.name] for row in rows], champion, kind)
            new = predictions_under(rows, challenger, kind)
            found.append(compare(old, new, kind, paired=True, criteria=criteria))
    return tuple(found)


def _decide(tuning: TuningResult, comparisons: Sequence[Comparison]) -> tuple[bool, str]:
    if tuning.policy.certificate is None:
        return False, tuning.shortfall
    summary = "; ".join(f"{each.media}s: {each.reason}" for each in comparisons)
    promoted = all(each.verdict == "promote" for each in comparisons) and bool(comparisons)
    return promoted, "; ".join(part for part in (summary, tuning.shortfall) if part)


def _holdout_groups(cases: Sequence[JournalRow], share: float) -> set[str]:
    """Return the groups of audited predictions that are held out; the choice depends on the group alone."""
    groups = sorted(
        {_group(case) for case in cases if case.prediction.audit_rate is not None and case.audit is not None}
    )
    return {group for group, draw in zip(groups, stable_uniforms(groups, "held"), strict=True) if draw < share}


def _group(case: JournalRow) -> str:
    return case.prediction.key or case.prediction.sha256
