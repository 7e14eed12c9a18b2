"""The simulation of promises: that its worlds are what `tune` sees, and that it can find a promise broken."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bound_coverage as coverage
from benchmarks.bound_coverage import DRAWS, POLICY, as_courses, as_rows, covered
from roadwork_serve.calibration import thresholds
from roadwork_serve.calibration.threshold_path import threshold_path
from roadwork_serve.calibration.thresholds import SequenceTestResult
from roadwork_serve.calibration.trajectories import Trajectories, trajectories


@pytest.mark.parametrize("world", DRAWS)
def test_a_world_drawn_at_once_is_the_same_row_by_row(world: str) -> None:
    items = DRAWS[world](np.random.default_rng(1), 60)
    rows = as_rows(items, 3)
    one, other = as_courses(items), trajectories(rows, POLICY, "photo")
    assert one.posterior == pytest.approx(other.posterior)
    assert one.cost == pytest.approx(other.cost)
    assert (one.spoke == other.spoke).all() and (one.truth == other.truth).all()
    assert len({row.metadata.name for row in rows}) == 60
    assert [row.weight for row in rows] == items.weight.tolist()


def test_weights_make_a_skewed_draw_the_traffic_again() -> None:
    rng = np.random.default_rng(2)
    skewed, traffic = DRAWS["weighed"](rng, 40_000), DRAWS["smooth"](rng, 40_000)
    doubted, all_doubted = (np.abs(items.logits[:, 0]) < 1 for items in (skewed, traffic))
    assert np.average(doubted, weights=skewed.weight) == pytest.approx(all_doubted.mean(), abs=0.01)
    assert doubted.mean() > all_doubted.mean() + 0.15


@pytest.mark.parametrize("world", ["weighed", "grouped"])
def test_promises_hold_of_unequal_weights_and_of_groups(world: str) -> None:
    found = covered(world, runs=40, rows=coverage.ROWS[world], risk_limit=0.02, confidence=0.9, items=100_000)
    assert found.promised == 40
    assert found.broken <= found.allowed
    assert 0 < found.lost < 0.02 and found.saved > 0.3


def test_a_choice_without_a_proof_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def unproven(design: Trajectories, test: Trajectories, risk_limit: float, confidence: float) -> SequenceTestResult:
        few = [
            bands
            for bands in threshold_path(design)
            if test.early_exit_errors(test.apply_bands(*bands)[0]).mean() <= risk_limit
        ]
        return SequenceTestResult(few[-1] if few else None, 0, 0.0, ())

    monkeypatch.setattr(thresholds, "fixed_sequence_test", unproven)
    found = covered("smooth", runs=40, rows=1000, risk_limit=0.01, confidence=0.9, items=100_000)
    assert found.broken > found.allowed
    assert found.p_value < 0.001


def test_the_results_are_written_and_a_broken_promise_fails_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = covered("smooth", runs=1, rows=600, risk_limit=0.05, confidence=0.9, items=10_000)
    monkeypatch.setattr(coverage, "covered", lambda world, *_, **__: replace(kept, world=world, naive_broken=99))
    out = tmp_path / "bound_coverage.json"
    assert coverage.main(["--out", str(out)]) == 0
    worlds = json.loads(out.read_text())["worlds"]
    assert [each["world"] for each in worlds] == list(DRAWS)
    monkeypatch.setattr(
        coverage, "covered", lambda world, *_, **__: replace(kept, world=world, broken=kept.allowed + 1)
    )
    assert coverage.main(["--out", str(out)]) == 1
