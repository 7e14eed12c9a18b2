from collections.abc import Iterable

import numpy as np
import pytest

from roadwork_serve.journal.drift_monitor import DriftMonitor
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.journal.traffic_stats import EDGES, TrafficStats, psi
from tests.journal.made import entry, report
from tests.journal.test_drift import traffic


def feed(gauge: DriftMonitor, cases: Iterable[JournalRow]) -> dict[str, float]:
    for case in cases:
        gauge.add(case.prediction)
    return gauge.values()


def test_statistics_count_exits_scores_and_features() -> None:
    tally = TrafficStats()
    tally.add(entry("a", 0.97, verdict={"stages": (report("backbone", 0.3), report("signs", None))}))
    tally.add(entry("b", 0.0, features=None))
    assert tally.exits == {"backbone: above_band": 2}
    assert {stage: sum(bins) for stage, bins in tally.scores.items()} == {"verdict": 2, "backbone": 2}
    assert tally.scores["backbone"] == [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert len(tally.scores["verdict"]) == len(EDGES) + 1
    (moments,) = tally.moments.values()
    assert (moments.count, moments.total.tolist(), moments.squares.tolist()) == (1, [0.5] * 4, [0.25] * 4)


def test_statistics_of_two_parts_add_up() -> None:
    cases = [*traffic(60, 1), JournalRow(entry("x", features=np.ones((2, 3), np.float16), features_model="other"))]
    first, second, both = TrafficStats(), TrafficStats(), TrafficStats()
    for at, case in enumerate(cases):
        (first if at < 20 else second).add(case.prediction)
        both.add(case.prediction)
    joined = first.merged(second)
    assert (joined.predictions, joined.exits, joined.scores) == (both.predictions, both.exits, both.scores)
    assert joined.moments.keys() == both.moments.keys()
    for kind, moments in both.moments.items():
        assert joined.moments[kind].total == pytest.approx(moments.total)


def test_psi_is_zero_for_equal_shares_and_grows_with_the_difference() -> None:
    assert psi([100, 100], [1000, 1000]) == pytest.approx(0)
    shifted = [psi([1000, 1000], [1000 - more, 1000 + more]) for more in (0, 100, 300, 500)]
    assert shifted == sorted(shifted) and shifted[3] > 0.25
    assert psi([500, 500], [0, 1000]) < 10  # an empty bin gives no infinity


def test_it_compares_the_last_predictions_with_the_first() -> None:
    gauge = DriftMonitor(reference=1000, window=400)
    assert feed(gauge, traffic(900, 1)) == {"reference": 900, "window": 0}
    calm = feed(gauge, traffic(700, 2))
    assert calm["reference"] == 1000
    assert max(calm["exits"], calm["scores.verdict"], calm["scores.backbone"], calm["features"]) < 0.15
    changed = feed(gauge, traffic(400, 3, shift=1.0, late=0.6, works=2.0))
    assert changed["window"] == 400
    assert changed["exits"] > 0.25 and changed["scores.backbone"] > 0.25
    assert changed["features"] == pytest.approx(1.0, abs=0.1)
    again = feed(gauge, traffic(400, 4))
    assert max(again["exits"], again["scores.verdict"], again["features"]) < 0.15


def test_the_window_is_bounded() -> None:
    gauge = DriftMonitor(reference=10, window=100)
    sizes = []
    for case in traffic(500, 1):
        gauge.add(case.prediction)
        sizes.append(gauge.values()["window"])
    assert max(sizes) == 100
    assert min(sizes[120:]) > 50


def test_a_reference_can_be_passed_in() -> None:
    gauge = DriftMonitor.with_reference(traffic(500, 1), window=200)
    assert gauge.values() == {"reference": 500, "window": 0}
    assert feed(gauge, traffic(200, 2, late=0.8))["exits"] > 0.25


def test_features_of_different_backbones_are_not_compared() -> None:
    gauge = DriftMonitor.with_reference(traffic(100, 1))
    other = [JournalRow(entry(f"{n}", features_model="new")) for n in range(50)]
    assert "features" not in feed(gauge, other)
