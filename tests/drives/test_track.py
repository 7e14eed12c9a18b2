import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.drives.geometry import bearing_deg, distance_m, to_plane, turn_deg
from roadwork_serve.drives.track import Fix, Track, joined
from roadwork_serve.errors import ConfigError
from tests.drives.made import LATITUDE, LONGITUDE, places

ANY = st.one_of(st.floats(), st.floats(-200, 200))


def track(clock: str = "utc") -> Track:
    return Track.of([Fix(*place) for place in places()], clock, "made")  # type: ignore[arg-type]


def test_positions_are_interpolated_between_fixes() -> None:
    at = track().at(7.5)
    assert at and distance_m(LATITUDE, LONGITUDE, at.latitude, at.longitude) == pytest.approx(75, abs=0.01)
    assert track().at(-1) and track().at(60) is None


def test_a_long_gap_has_no_positions() -> None:
    gap = Track.of([Fix(0, 48, 11), Fix(1, 48, 11), Fix(100, 48.001, 11), Fix(101, 48.001, 11)], "utc", "made")
    assert gap.at(50) is None and gap.at(1.5) and gap.at(100)


def test_uncertainty_grows_between_fixes() -> None:
    sparse = Track.of([Fix(0, 48, 11, 4), Fix(20, 48.001, 11, 4)], "utc", "made")
    near, far = sparse.at(0.5), sparse.at(10)
    assert near and far and near.accuracy_m == 4 and far.accuracy_m == 22


def test_the_antimeridian_is_crossed() -> None:
    at = Track.of([Fix(0, 0.5, 179.9999), Fix(2, 0.5, -179.9999)], "utc", "made").at(1)
    assert at and abs(at.longitude) == pytest.approx(180)


@pytest.mark.parametrize("place", [5, 0, 29])
def test_a_jump_of_the_receiver_is_left_out(place: int) -> None:
    fixes = [Fix(*each) for each in places()]
    fixes[place] = Fix(fixes[place].time_s, 50.0, 11.5)
    assert max(Track.of(fixes, "utc", "made").latitudes) < 49


def test_speed_is_measured() -> None:
    speeds = track().speeds(np.array([3.0, 10.25, 90.0]))
    assert speeds[:2] == pytest.approx([10, 10], abs=0.01) and math.isnan(speeds[2])


def test_chapters_are_joined() -> None:
    whole = joined([track("video"), track("video").shifted(30)])
    assert (whole.begin_s, whole.end_s, len(whole.times_s)) == (0, 59, 60)


def test_a_later_chapter_knows_when_the_drive_began() -> None:
    later = Track.of([Fix(*place) for place in places()], "video", "made", start_utc_s=1000.0).shifted(30)
    assert joined([track("video"), later]).start_utc_s == 970


def test_fewer_than_two_positions_are_refused() -> None:
    with pytest.raises(ConfigError, match="made has 1 usable positions"):
        Track.of([Fix(0, 48, 11), Fix(0, 48, 11), Fix(1, 0, 0), Fix(2, math.nan, 11)], "utc", "made")


@given(st.lists(st.tuples(ANY, ANY, ANY, ANY), max_size=20), st.floats(-1e3, 1e3))
def test_any_fixes_give_a_track_or_a_clear_error(rows: list[tuple[float, float, float, float]], time_s: float) -> None:
    try:
        made = Track.of([Fix(*row) for row in rows], "utc", "made")
    except ConfigError:
        return
    assert (np.diff(made.times_s) > 0).all()
    at = made.at(time_s)
    assert at is None or (abs(at.latitude) <= 90 and abs(at.longitude) <= 180 and at.accuracy_m > 0)


def test_directions_and_the_plane() -> None:
    assert bearing_deg(48, 11, 49, 11) == pytest.approx(0) and bearing_deg(0, 0, 0, 1) == pytest.approx(90)
    assert turn_deg(350, 10) == 20 and turn_deg(0, 180) == 180
    east, north = to_plane(np.array([48.001]), np.array([11.001]), 48, 11)[0]
    assert math.hypot(east, north) == pytest.approx(distance_m(48, 11, 48.001, 11.001), rel=1e-3)
