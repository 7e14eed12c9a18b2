"""Calibration of overconfident stages."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml

from roadwork_serve.calibration.calibrate import CalibrationResult, calibrate, quality
from roadwork_serve.calibration.policy_writer import policy_yaml
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.evaluation.replay import replay
from roadwork_serve.evaluation.rows import EvaluationRow, StageRecord

POLICY = Policy.parse(
    {
        "version": "raw",
        "photo": [{"stage": "backbone", "exit": [0.1, 0.9]}, {"stage": "vlm", "exit": [0.5, 0.5]}],
        "clip": [{"stage": "backbone", "exit": [0.1, 0.9]}, {"stage": "video", "exit": [0.5, 0.5]}],
    }
)


def overstated(n: int, seed: int = 0, same_cues: bool = True, **metadata: Any) -> list[EvaluationRow]:
    """Return photos whose stage 1 is threefold overconfident; with `same_cues`, the VLM uses the same evidence."""
    rng = np.random.default_rng(seed)
    rows: list[EvaluationRow] = []
    for at in range(n):
        evidence = rng.normal(0, 2.5)
        label = bool(rng.random() < 1 / (1 + np.exp(-evidence)))
        other = rng.normal(4 if label else -4, 1) if not same_cues else evidence
        records = (StageRecord("backbone", 3 * evidence, None, "m", True), StageRecord("vlm", other, None, "m", True))
        sample = SampleMetadata(f"{seed}-{at}", "photo", label, **metadata)
        rows.append(EvaluationRow(sample, 0.5, True, "vlm", "last_stage", False, records))
    return rows


@pytest.fixture(scope="module")
def fitted() -> tuple[Policy, CalibrationResult]:
    return calibrate(overstated(1500), POLICY, "calm-1")


def test_an_overconfident_stage_is_scaled_down(fitted: tuple[Policy, CalibrationResult]) -> None:
    policy, result = fitted
    stage = policy.photo[0].calibration
    worth = [stage.update(0.0, logit) for logit in (-6.0, 0.0, 6.0)]
    assert worth == pytest.approx([-2.0, 0.0, 2.0], abs=0.4)
    tried = result.fits[0].log_losses
    assert tried["none"] > tried[result.fits[0].curve]
    assert policy.version == "calm-1"


def test_quality_after_calibration_is_measured_out_of_fold(fitted: tuple[Policy, CalibrationResult]) -> None:
    _, result = fitted
    before, after = result.before["photo"], result.after["photo"]
    assert (before.n, after.n) == (1500, 1500)
    assert after.log_loss < before.log_loss and after.ece < before.ece / 2 and after.brier < before.brier
    fresh = overstated(4000, seed=1)
    policy, _ = fitted
    truth = np.array([row.metadata.label for row in fresh])
    logodds = np.array([replay(row, policy).progress.logodds for row in fresh])
    measured = quality(logodds, truth, np.ones(len(fresh)))
    assert after.log_loss == pytest.approx(measured.log_loss, abs=0.04)


def test_evidence_that_two_stages_share_is_not_counted_twice(fitted: tuple[Policy, CalibrationResult]) -> None:
    policy, result = fitted
    vlm = policy.photo[1].calibration
    assert result.fits[1].stage == "vlm" and result.fits[1].stacked
    assert 0.7 < vlm.prior_weight + vlm.scale < 1.3


def test_a_stage_is_fitted_to_the_rows_that_reach_it() -> None:
    """Items of which stage 1 is confident exit there; they must not influence the calibration of the VLM."""
    rows = overstated(1500, same_cues=False)
    bent = [_where_sure(row, POLICY) for row in rows]
    plain, _ = calibrate(rows, POLICY, "x")
    same, _ = calibrate(bent, plain.named("y"), "y")
    again, _ = calibrate(rows, plain.named("y"), "y")
    assert same.photo[1] == again.photo[1]


def _where_sure(row: EvaluationRow, _: Policy) -> EvaluationRow:
    """Flip the VLM where stage 1 is most overconfident; those items exit at stage 1 in any case."""
    seen = row.record("backbone")
    if seen is None or seen.logit is None or abs(seen.logit) < 20:
        return row
    records = tuple(
        replace(record, logit=-(record.logit or 0.0)) if record.stage == "vlm" else record for record in row.records
    )
    return replace(row, records=records)


def test_calibration_keeps_the_bands_and_drops_the_certificate(fitted: tuple[Policy, CalibrationResult]) -> None:
    policy, _ = fitted
    bands = [(step.low, step.high) for step in policy.photo]
    assert bands == [(0.1, 0.9), (0.5, 0.5)] and policy.clip == POLICY.clip
    assert policy.certificate is None


def test_a_calibrated_policy_is_the_same_from_its_file(fitted: tuple[Policy, CalibrationResult]) -> None:
    policy, _ = fitted
    assert Policy.parse(yaml.safe_load(policy_yaml(policy, "made up"))) == policy


def test_ignored_rows_and_abstaining_stages_have_no_influence() -> None:
    rows = overstated(300)
    unclear = [
        replace(r, metadata=replace(r.metadata, ignore=True, label=not r.metadata.label)) for r in overstated(300, 2)
    ]
    silent = [replace(row, records=(row.records[0], replace(row.records[1], logit=None))) for row in rows]
    assert calibrate([*rows, *unclear], POLICY, "x")[0] == calibrate(rows, POLICY, "x")[0]
    assert calibrate(silent, POLICY, "x")[0].photo[1].calibration == POLICY.photo[1].calibration


def test_too_few_rows_change_nothing() -> None:
    policy, result = calibrate(overstated(15), POLICY, "x")
    assert policy.photo == POLICY.photo
    assert result.fits == () and result.after == {}
