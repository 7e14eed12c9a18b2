"""Where policies and single stages stand, and what other bounds would cost."""

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


def test_policies_and_stages_stand_where_they_would() -> None:
    photo, clip = pareto_fronts(ROWS, POLICY, TUNED)
    assert (photo.media, clip.media) == ("photo", "clip")
    places = {place.name: place for place in photo.places}
    mine = [row for row in ROWS if row.about.kind == "photo"]
    for name, policy in (("today", POLICY), ("tuned", TUNED)):
        right = np.mean([(replay(row, policy).progress.posterior >= 0.5) == row.about.label for row in mine])
        assert places[name].accuracy == pytest.approx(right)
    assert places["stage 1 alone"].cost == flops(["backbone"], "photo")
    assert places["vlm on all"].cost == flops(["vlm"], "photo")
    vlm = [(look.logit >= 0) == row.about.label for row in mine if (look := row.look("vlm")) and look.logit is not None]
    assert places["vlm on all"].accuracy == pytest.approx(np.mean(vlm))
    assert places["tuned"].cost < places["today"].cost < places["all stages"].cost
    assert {place.name for place in clip.places} >= {"video on all", "today", "stage 1 alone"}


def test_a_line_goes_from_all_stages_to_stage_one() -> None:
    front = pareto_fronts(ROWS, POLICY, POLICY)[0]
    cost = [place.cost for place in front.line]
    assert "tuned" not in {place.name for place in front.places}
    assert cost[0] == next(place.cost for place in front.places if place.name == "all stages")
    assert cost == sorted(cost, reverse=True) and cost[-1] < cost[0] / 10


def test_an_item_that_stands_for_many_counts_for_many() -> None:
    rows = [row for row in ROWS[:300] if row.about.kind == "photo"]
    heavy = [replace(row, weight=20.0) for row in rows[:20]] + rows[20:]
    many = [row for row in rows[:20] for _ in range(20)] + rows[20:]
    found, wanted, plain = (
        [place.accuracy for place in pareto_fronts(each, POLICY, POLICY)[0].places] for each in (heavy, many, rows)
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
    assert tight.least > loose.least and tight_sure.least > tight.least and loose_sure.least > loose.least
    assert loose.holds and loose.n > loose.least
    assert loose.cost <= loose_sure.cost <= tight_sure.cost and loose.cost < tight.cost <= loose.full_cost
    assert sum(loose.exits) == pytest.approx(1)
    whole = trajectories([row for row in ROWS if row.about.kind == "photo"], POLICY, "photo")
    assert loose.full_cost == pytest.approx(whole.cost[:, -1].mean())


def test_a_bound_that_cannot_be_proven_says_what_is_missing() -> None:
    cases = trade_offs(ROWS[:200], POLICY, TuningSettings(), (0.005,), (0.95,))
    assert [case.media for case in cases] == ["photo", "clip"]
    assert all(not case.holds and case.n == 0 and case.cost == case.full_cost for case in cases)
    assert all(case.more is None or case.more > case.least / 2 for case in cases)
