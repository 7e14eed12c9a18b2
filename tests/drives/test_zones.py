import numpy as np
import pytest

from roadwork_serve.drives.geometry import distance_m
from roadwork_serve.drives.segments import Segment
from roadwork_serve.drives.track import Fix, Track
from roadwork_serve.drives.zones import Drive, find_zones
from tests.drives.made import LATITUDE, LONGITUDE, STEP_DEG

HOUR, AHEAD = 3600.0, 30.0


def drive(*zones: tuple[float, float], start_s: float = 0.0, noise_m: float = 3.0, back: bool = False) -> Drive:
    """Return a drive of 200 s at 10 m/s, with segments at these metres of the way. back: in the other direction."""
    rng = np.random.default_rng(abs(int(start_s)) + len(zones))
    metres = np.arange(200) * 10.0
    fixes = [
        Fix(float(at), LATITUDE + (m + rng.normal(0, noise_m)) / 10 * STEP_DEG, LONGITUDE, 4.0)
        for at, m in enumerate(metres[::-1] if back else metres)
    ]
    times = [(2000 - end, 2000 - begin) if back else (begin, end) for begin, end in zones]
    segments = tuple(Segment(begin / 10, end / 10, 0.9, (begin + end) / 20, ("cone",)) for begin, end in times)
    return Drive("made", segments, Track.of(fixes, "video", "made"), start_s, ((0.0, 200.0),))


def metres(fix: Fix) -> float:
    return float(distance_m(LATITUDE, LONGITUDE, fix.latitude, fix.longitude))


def test_passes_of_one_place_are_one_zone_with_its_place() -> None:
    zones = find_zones([drive((500, 600), (1200, 1260)), drive((515, 605), (1195, 1255), start_s=HOUR)])
    assert [len(zone.sightings) for zone in zones] == [2, 2]
    assert [metres(zone.place) for zone in zones] == pytest.approx([555 + AHEAD, 1227 + AHEAD], abs=10)
    assert (zones[0].first_utc_s, zones[0].last_utc_s) == (55, HOUR + 56)
    assert zones[0].status == "active" and zones[0].seen == ("cone",)
    assert 2 < zones[0].place.accuracy_m < 15


def test_a_zone_that_a_later_pass_does_not_see_has_ended() -> None:
    seen, later = drive((500, 600)), drive(start_s=HOUR)
    (zone,) = find_zones([seen, later])
    assert zone.status == "ended" and zone.missed_utc_s == [pytest.approx(HOUR + 55 + AHEAD / 10, abs=3)]
    (zone,) = find_zones([drive(start_s=-HOUR), seen])
    assert zone.status == "active" and len(zone.missed_utc_s) == 1, "it was not there before"


def test_a_zone_that_nobody_passed_again_is_not_ended() -> None:
    elsewhere = drive(start_s=HOUR)
    assert elsewhere.track
    away = Track.of(
        [Fix(t, lat + 0.1, lon) for t, lat, lon in zip(elsewhere.track.times_s, elsewhere.track.latitudes,
                                                       elsewhere.track.longitudes, strict=True)],
        "video", "away",
    )  # fmt: skip
    (zone,) = find_zones([drive((500, 600)), Drive("away", (), away, HOUR, ((0.0, 200.0),))])
    assert zone.status == "active" and zone.missed_utc_s == []


def test_a_pass_whose_frames_were_not_scored_says_nothing() -> None:
    later = drive(start_s=HOUR)
    unscored = Drive("cut", (), later.track, HOUR, ((0.0, 20.0),))
    (zone,) = find_zones([drive((500, 600)), unscored])
    assert zone.missed_utc_s == []


def test_the_other_carriageway_says_nothing_but_a_sighting_there_counts() -> None:
    (zone,) = find_zones([drive((500, 600)), drive(start_s=HOUR, back=True)])
    assert zone.missed_utc_s == []
    (zone,) = find_zones([drive((500, 600)), drive((500, 600), start_s=HOUR, back=True)])
    assert len(zone.sightings) == 2


def test_neighbours_of_one_pass_stay_apart() -> None:
    zones = find_zones([drive((500, 600), (630, 700)), drive((500, 605), (625, 700), start_s=HOUR)])
    assert [len(zone.sightings) for zone in zones] == [2, 2]


def test_without_times_the_order_of_passes_is_unknown() -> None:
    undated = [
        Drive(each.name, each.segments, each.track, None, each.scored_s) for each in (drive((500, 600)), drive())
    ]
    (zone,) = find_zones(undated)
    assert zone.status == "unknown" and zone.first_utc_s is None


def test_segments_without_a_position_are_in_no_zone() -> None:
    assert find_zones([Drive("lost", (Segment(1, 2, 0.9, 1.5),))]) == []
    beyond = drive((500, 600))
    assert find_zones([Drive("x", (Segment(900, 910, 0.9, 905),), beyond.track)]) == []
