from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.drives.track import Track
from roadwork_serve.drives.track_files import read_gpx, read_nmea, read_srt, read_track
from roadwork_serve.errors import ConfigError
from tests.drives import made

DJI_OLD = "HOME(11.5,48.1) GPS({lon:.7f},{lat:.7f},20) BAROMETER:12"
DJI_MISSPELT = "[latitude : {lat:.7f}] [longtitude : {lon:.7f}]"


@pytest.mark.parametrize(
    ("name", "text", "clock", "begin_s"),
    [
        ("ride.gpx", made.gpx(made.places()), "utc", made.START.timestamp()),
        ("ride.nmea", made.nmea(made.places()), "utc", made.START.timestamp()),
        ("a.gps", "[1588581000000]" + made.nmea(made.places()).replace("\n", "\n[1]"), "utc", made.START.timestamp()),
        ("dji.srt", made.srt(made.places()), "video", 0.0),
        ("old.srt", made.srt(made.places(), DJI_OLD), "video", 0.0),
        ("misspelt.srt", made.srt(made.places(), DJI_MISSPELT), "video", 0.0),
        ("no-ending", "\ufeff" + made.gpx(made.places()), "utc", made.START.timestamp()),
    ],
)
def test_each_layout_is_read(tmp_path: Path, name: str, text: str, clock: str, begin_s: float) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    track = read_track(tmp_path / name)
    assert (track.clock, track.begin_s, len(track.times_s)) == (clock, begin_s, 30)
    at = track.at(begin_s + 10)
    assert at and (at.latitude, at.longitude) == pytest.approx((made.LATITUDE + 10 * made.STEP_DEG, 11.5), abs=1e-6)


def test_southern_and_western_places_have_their_signs() -> None:
    rio = [(at, -22.9 - at / 1e5, -43.2) for at in range(5)]
    track = read_nmea(made.nmea(rio), "rio.nmea")
    assert (track.latitudes[0], track.longitudes[0]) == pytest.approx((-22.9, -43.2), abs=1e-6)


def test_damaged_sentences_are_left_out() -> None:
    lines = made.nmea(made.places()).splitlines(keepends=True)
    lines[3] = lines[3].replace("A,48", "A,49")  # its checksum is wrong now
    lines[4] = lines[4][:30] + "\r\n"
    assert len(read_nmea("".join(lines), "ride.nmea").times_s) == 28


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a shopping list", "holds no track"),
        ("", "holds no track"),
        (made.gpx(made.places())[:-300], "cannot be read as GPX"),
        (made.gpx(made.places()).replace("<time>", "<!--").replace("</time>", "-->"), "have no times"),
        ('<!DOCTYPE gpx [<!ENTITY a "aaaa">]>' + made.gpx(made.places()), "has a document type"),
        (made.gpx(made.places(1)), "1 usable positions"),
        (made.nmea(made.places()).replace(",A,48", ",V,48"), "0 usable positions"),
        ("1\n00:00:01,000 --> 00:00:02,000\nHello\n", "0 usable positions"),
    ],
)
def test_what_is_no_track_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "track").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_track(tmp_path / "track")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.gpx cannot be read: No such file"):
        read_track(tmp_path / "gone.gpx")


WHOLE = {read_gpx: made.gpx, read_nmea: made.nmea, read_srt: made.srt}


@pytest.mark.parametrize("read", WHOLE, ids=lambda each: each.__name__)
@given(st.integers(0, 2000), st.text(max_size=8), st.integers(0, 40))
def test_damage_gives_a_track_or_a_clear_error(read: Callable[[str, str], Track], at: int, put: str, cut: int) -> None:
    text = WHOLE[read](made.places(10))
    at %= len(text)
    try:
        track = read(text[:at] + put + text[at + cut :], "damaged")
    except ConfigError as error:
        assert "damaged" in str(error)
    else:
        assert len(track.times_s) >= 2
