from itertools import pairwise

import numpy as np
import pytest

from roadwork_serve.drives.geometry import distance_m
from roadwork_serve.drives.track_files import read_gpx
from roadwork_serve.testbed.scenes.drive import drive_frame, drive_gpx
from roadwork_serve.testbed.scenes.drive_plan import plan_drive
from tests.drives.made import START


def test_a_drive_passes_its_zones_in_order_and_stops_at_lights() -> None:
    plan = plan_drive(3, 240, 5)
    sights = plan.sights()
    assert len(sights) == 5 and all(0 < begin < end < plan.seconds for begin, end in sights)
    assert all(before[1] < after[0] for before, after in pairwise(sights))
    speeds = np.diff(plan.travelled_m) / 0.1
    assert speeds.min() == 0 and speeds.max() < 13
    assert 0.6 * 240 < plan.seconds < 1.6 * 240


def test_passes_share_the_road_but_not_its_zones_and_speeds() -> None:
    first, second = plan_drive(3, 240, 5), plan_drive(3, 240, 5, frozenset({1}), "night", 1)
    assert [zone.begin_m for zone in second.zones] == [zone.begin_m for at, zone in enumerate(first.zones) if at != 1]
    assert len(first.travelled_m) != len(second.travelled_m) and second.conditions.light == "night"


def test_the_track_follows_the_road() -> None:
    plan = plan_drive(3, 120, 2)
    track = read_gpx(drive_gpx(plan, START), "made.gpx")
    for time_s in (10.0, 60.0):
        at = track.at(START.timestamp() + time_s)
        assert at and distance_m(at.latitude, at.longitude, *plan.place_at(plan.metres_at(time_s))) < 12


def test_works_are_drawn_where_the_plan_has_them() -> None:
    plan = plan_drive(3, 120, 2)
    begin, end = plan.sights()[0]
    empty, works = (np.asarray(drive_frame(plan, at, 0.15)).astype(int) for at in (begin - 8, (begin + end) / 2))

    def orange(picture: np.ndarray) -> float:
        return float(((picture[..., 0] - picture[..., 2]) > 110).mean())

    assert orange(works) > 5 * orange(empty) + 0.001
    assert drive_frame(plan, begin, 0.1).size == (128, 72)


def test_a_standing_car_sees_the_same_but_for_noise() -> None:
    plan = plan_drive(3, 240, 5)
    still = int(np.flatnonzero(np.diff(plan.travelled_m) == 0)[5]) / 10
    one, other = (np.asarray(drive_frame(plan, at, 0.1)).astype(int) for at in (still, still + 1))
    assert np.abs(one - other).mean() == pytest.approx(0, abs=4)
