from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadwork_serve.drives.telemetry import DataPacket, telemetry_track
from roadwork_serve.errors import ConfigError
from tests.drives import made

LAYOUTS = {"gps5": made.gps5, "gps9": made.gps9, "camm": made.camm}


def packets(layout: Callable[[float, float, float], bytes], count: int = 20) -> list[DataPacket]:
    return [DataPacket(place[0], 1.0, layout(*place)) for place in made.places(count)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_read(layout: str) -> None:
    track = telemetry_track(packets(LAYOUTS[layout]), "GX010001.MP4")
    assert track and track.clock == "video" and track.begin_s == 0
    at = track.at(10)
    assert at and (at.latitude, at.longitude) == pytest.approx((made.LATITUDE + 10 * made.STEP_DEG, 11.5), abs=1e-6)
    assert track.start_utc_s == pytest.approx(made.START.timestamp(), abs=1e-3)
    assert at.accuracy_m == (4 if layout == "camm" else 7.5)


def test_all_rows_of_a_packet_are_positions() -> None:
    track = telemetry_track(packets(made.gps5), "x")
    assert track and len(track.times_s) == 200
    assert track.speeds(track.times_s[20:-20]) == pytest.approx(10, abs=0.2)


def test_rows_without_a_fix_are_left_out() -> None:
    found = packets(made.gps5)
    found[:10] = [DataPacket(at, 1.0, made.gps5(at, 0, 0, fix=0)) for at in range(10)]
    track = telemetry_track(found, "x")
    assert track and track.begin_s == 10
    with pytest.raises(ConfigError, match="x has 0 usable positions"):
        telemetry_track(found[:10], "x")


def test_other_data_holds_no_track() -> None:
    assert telemetry_track([DataPacket(0, 1, b"tmcd")] * 3, "x") is None
    assert telemetry_track([], "x") is None
    assert (
        telemetry_track([DataPacket(0, 1, made.nested(b"DEVC", made.klv(b"DVID", b"L", 4, b"\0\0\0\1")))], "x") is None
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@given(st.integers(0, 400), st.binary(max_size=12), st.integers(0, 40))
def test_damage_gives_a_track_or_a_clear_error(layout: str, at: int, put: bytes, cut: int) -> None:
    found = packets(LAYOUTS[layout], 4)
    data = found[1].data
    at %= len(data)
    found[1] = found[1]._replace(data=data[:at] + put + data[at + cut :])
    try:
        track = telemetry_track(found, "damaged")
    except ConfigError as error:
        assert "damaged" in str(error)
    else:
        assert track is None or len(track.times_s) >= 2


def test_a_bomb_of_nested_entries_is_bounded() -> None:
    data = b""
    while len(data) < 60_000:
        data = made.nested(b"STRM", data, made.klv(b"GPS5", b"l", 20, bytes(20)))
    with pytest.raises(ConfigError, match="0 usable positions"):
        telemetry_track([DataPacket(0, 1, made.nested(b"DEVC", data))], "x")
