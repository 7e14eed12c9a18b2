"""Accuracy and cost of policies and single stages, and the cost of other bounds."""

from dataclasses import replace

import numpy as np
import pytest

from roadwork_serve.calibration.pareto import pareto_fronts
from roadwork_serve.calibration.threshold_path import with_bands
from roadwork_serve.calibration.thresholds import TuningSettings
from roadwork_serve.calibration.trade_offs import trade_offs
from roadwork_serve.calibration.trajectories import trajectories
from roadwork_serve.evaluation.replay import replay
from roadwork_serve.profiles.flops import flops
from tests.calibration.synthetic_rows import synthetic_rows
from tests.evaluation.fakes import POLICY

ROWS = synthetic_rows(1200)
TUNED = with_bands(POLICY, "photo", [0.3, 0.3, 0.3, 0.5], [0.7, 0.7, 0.7, 0.5])


def test_points_have_the_accuracy_and_cost_of_their_policy_or_stage() -> None:
    photo, clip = pareto_fronts(ROWS, POLICY, TUNED)
    assert (photo.media, clip.media) == ("photo", "clip")
    points = {point.name: point for point in photo.points}
    mine = [row for row in ROWS if row.metadata.kind == "photo"]
    for name, policy in (("today", POLICY), ("tuned", TUNED)):
        right = np.mean([(replay(row, policy).progress.posterior >= 0.5) == row.metadata.label for row in mine])
        assert points[name].accuracy == pytest.approx(right)
    assert points["stage 1 alone"].cost == flops(["backbone"], "photo")
    assert points["vlm on all"].cost == flops(["vlm"], "photo")
    vlm = [
        (record.logit >= 0) == row.metadata.label
        for row in mine
        if (record := row.record("vlm")) and record.logit is not None
    ]
    assert points["vlm on all"].accuracy == pytest.approx(np.mean(vlm))
    assert points["tuned"].cost < points["today"].cost < points["all stages"].cost
    assert {point.name for point in clip.points} >= {"video on all", "today", "stage 1 alone"}


def test_the_path_leads_from_all_stages_to_stage_1() -> None:
    front = pareto_fronts(ROWS, POLICY, POLICY)[0]
    cost = [point.cost for point in front.path]
    assert "tuned" not in {point.name for point in front.points}
    assert cost[0] == next(point.cost for point in front.points if point.name == "all stages")
    assert cost == sorted(cost, reverse=True) and cost[-1] < cost[0] / 10


def test_points_respect_item_weights() -> None:
    rows = [row for row in ROWS[:300] if row.metadata.kind == "photo"]
    heavy = [replace(row, weight=20.0) for row in rows[:20]] + rows[20:]
    many = [row for row in rows[:20] for _ in range(20)] + rows[20:]
    found, wanted, plain = (
        [point.accuracy for point in pareto_fronts(each, POLICY, POLICY)[0].points] for each in (heavy, many, rows)
    )
    assert found == pytest.approx(wanted)
    assert found != pytest.approx(plain)


def test_tighter_bounds_and_more_confidence_cost_more_and_take_more_rows() -> None:
    cases = [
        case for case in trade_offs(ROWS, POLICY, TuningSettings(), (0.02, 0.05), (0.9, 0.95)) if case.media == "photo"
    ]
    assert [(case.risk_limit, case.confidence) for case in cases] == [
        (0.02, 0.9),
        (0.02, 0.95),
        (0.05, 0.9),
        (0.05, 0.95),
    ]
    tight, tight_sure, loose, loose_sure = cases
    assert (
        tight.min_test_size > loose.min_test_size
        and tight_sure.min_test_size > tight.min_test_size
        and loose_sure.min_test_size > loose.min_test_size
    )
    assert loose.proven and loose.test_size > loose.min_test_size
    assert loose.cost <= loose_sure.cost <= tight_sure.cost and loose.cost < tight.cost <= loose.full_cost
    assert sum(loose.exits) == pytest.approx(1)
    whole = trajectories([row for row in ROWS if row.metadata.kind == "photo"], POLICY, "photo")
    assert loose.full_cost == pytest.approx(whole.cost[:, -1].mean())


def test_an_unproven_bound_reports_the_missing_rows() -> None:
    cases = trade_offs(ROWS[:200], POLICY, TuningSettings(), (0.005,), (0.95,))
    assert [case.media for case in cases] == ["photo", "clip"]
    assert all(not case.proven and case.test_size == 0 and case.cost == case.full_cost for case in cases)
    assert all(case.rows_missing is None or case.rows_missing > case.min_test_size / 2 for case in cases)
