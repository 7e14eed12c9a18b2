"""Tests of the coverage simulation: its scenarios match what `tune` sees, and it detects a violated bound."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bound_coverage as coverage
from benchmarks.bound_coverage import POLICY, SCENARIOS, measure_coverage, to_rows, to_trajectories
from roadwork_serve.calibration import thresholds
from roadwork_serve.calibration.threshold_path import threshold_path
from roadwork_serve.calibration.thresholds import SequenceTestResult
from roadwork_serve.calibration.trajectories import Trajectories, trajectories


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_scenario_is_the_same_vectorized_and_row_by_row(scenario: str) -> None:
    items = SCENARIOS[scenario](np.random.default_rng(1), 60)
    rows = to_rows(items, 3)
    one, other = to_trajectories(items), trajectories(rows, POLICY, "photo")
    assert one.posterior == pytest.approx(other.posterior)
    assert one.cost == pytest.approx(other.cost)
    assert (one.spoke == other.spoke).all() and (one.truth == other.truth).all()
    assert len({row.metadata.name for row in rows}) == 60
    assert [row.weight for row in rows] == items.weight.tolist()


def test_weights_correct_a_skewed_sample() -> None:
    rng = np.random.default_rng(2)
    skewed, traffic = SCENARIOS["weighted"](rng, 40_000), SCENARIOS["smooth"](rng, 40_000)
    doubted, all_doubted = (np.abs(items.logits[:, 0]) < 1 for items in (skewed, traffic))
    assert np.average(doubted, weights=skewed.weight) == pytest.approx(all_doubted.mean(), abs=0.01)
    assert doubted.mean() > all_doubted.mean() + 0.15


@pytest.mark.parametrize("scenario", ["weighted", "grouped"])
def test_the_bound_holds_for_unequal_weights_and_for_groups(scenario: str) -> None:
    found = measure_coverage(
        scenario, runs=40, rows=coverage.ROWS[scenario], risk_limit=0.02, confidence=0.9, items=100_000
    )
    assert found.certified == 40
    assert found.violations <= found.max_violations
    assert 0 < found.error_rate < 0.02 and found.flops_saved > 0.3


def test_a_choice_without_a_test_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    def unproven(design: Trajectories, test: Trajectories, risk_limit: float, confidence: float) -> SequenceTestResult:
        few = [
            bands
            for bands in threshold_path(design)
            if test.early_exit_errors(test.apply_bands(*bands)[0]).mean() <= risk_limit
        ]
        return SequenceTestResult(few[-1] if few else None, 0, 0.0, ())

    monkeypatch.setattr(thresholds, "fixed_sequence_test", unproven)
    found = measure_coverage("smooth", runs=40, rows=1000, risk_limit=0.01, confidence=0.9, items=100_000)
    assert found.violations > found.max_violations
    assert found.p_value < 0.001


def test_results_are_written_and_a_violated_bound_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = measure_coverage("smooth", runs=1, rows=600, risk_limit=0.05, confidence=0.9, items=10_000)
    passing, failing = replace(result, naive_violations=99), replace(result, violations=result.max_violations + 1)
    monkeypatch.setattr(coverage, "measure_coverage", lambda scenario, *_, **__: replace(passing, scenario=scenario))
    out = tmp_path / "bound_coverage.json"
    assert coverage.main(["--out", str(out)]) == 0
    scenarios = json.loads(out.read_text())["scenarios"]
    assert [each["scenario"] for each in scenarios] == list(SCENARIOS)
    monkeypatch.setattr(coverage, "measure_coverage", lambda scenario, *_, **__: replace(failing, scenario=scenario))
    assert coverage.main(["--out", str(out)]) == 1
