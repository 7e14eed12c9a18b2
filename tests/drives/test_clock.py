import numpy as np
import pytest

from roadwork_serve.drives.clock import camera_time, estimate_correction, place_recording
from roadwork_serve.drives.segments import FrameScore
from roadwork_serve.drives.track import Fix, Track
from roadwork_serve.errors import ConfigError
from tests.drives.made import LATITUDE, LONGITUDE, START, STEP_DEG

T0 = START.timestamp()
STOPS = ((40, 62), (150, 171), (240, 290))


def track(noise_m: float = 0.2) -> Track:
    """Return a drive of 400 s at 10 m/s with three stops."""
    rng, metres, fixes = np.random.default_rng(3), 0.0, []
    for at in range(400):
        metres += 0 if any(begin <= at < end for begin, end in STOPS) else 10
        fixes.append(Fix(T0 + at, LATITUDE + (metres + rng.normal(0, noise_m)) / 10 * STEP_DEG, LONGITUDE))
    return Track.of(fixes, "utc", "ride.gpx")


def scores(begin: float, seconds: float = 300) -> list[FrameScore]:
    """Return the frames of a recording that begins this many seconds after the track."""
    times = np.arange(0, seconds, 0.5)
    stands = [any(b + 0.5 <= at + begin < e for b, e in STOPS) for at in times]
    return [FrameScore(float(at), None if still else 0.1) for at, still in zip(times, stands, strict=True)]


@pytest.mark.parametrize("error_s", [-37.5, 0.0, 64.0])
def test_stops_show_the_offset_of_the_clock(error_s: float) -> None:
    found = place_recording(track(), T0 + 20 + error_s, 300, scores(20))
    assert found.method == "stops" and found.start_utc_s == pytest.approx(T0 + 20, abs=1.0)


def test_a_camera_on_local_time_is_found_by_its_zone() -> None:
    found = place_recording(track(), T0 + 5 + 5.5 * 3600, 300, [])
    assert (found.method, found.start_utc_s) == ("time zone", T0 + 5)


def test_a_camera_that_is_right_is_left_alone() -> None:
    moving = [FrameScore(at / 2, 0.1) for at in range(600)]
    assert place_recording(track(), T0 + 20, 300, moving).method == "camera"
    assert estimate_correction(track(), T0 + 20, moving) is None


def test_a_given_offset_is_used() -> None:
    found = place_recording(track(), T0 - 500, 300, scores(20), offset_s=520)
    assert (found.method, found.start_utc_s) == ("given", T0 + 20)


def test_a_recording_without_a_time_begins_with_its_track() -> None:
    assert place_recording(track(), None, 300, []).start_utc_s == T0


def test_a_track_of_another_day_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ride\.gpx is of another time .* --clock-offset"):
        place_recording(track(), T0 + 86_400 * 3, 300, [])


def test_times_of_containers() -> None:
    assert camera_time("2026-05-04T08:30:00.000000Z") == T0
    assert camera_time("1904-01-01T00:00:00Z") is None and camera_time("") is None
