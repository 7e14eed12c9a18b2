"""Positions in the data tracks of videos: GPMF of GoPro, and CAMM.

Formats: https://github.com/gopro/gpmf-parser and https://developers.google.com/streetview/publish/camm-spec
"""

import datetime as dt
import math
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from roadwork_serve.drives.track import DEFAULT_ACCURACY_M, Fix, Track

_MAX_DEPTH, _MAX_ENTRIES = 4, 20_000  # of one packet of a second
_MAX_SAMPLES = 1_000  # positions of one packet; cameras write 10 to 18
_DOP_M = 5.0
_SCALARS = {
    b"b": "b", b"B": "B", b"s": "h", b"S": "H", b"l": "i", b"L": "I", b"f": "f", b"d": "d", b"j": "q", b"J": "Q",
}  # fmt: skip
_GPS_EPOCH_2000 = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_CAMM_SIZES = {0: 12, 1: 8, 2: 12, 3: 12, 4: 12, 5: 24, 6: 56, 7: 12}  # bytes of each type behind its header
_LEAP_S = 18.0  # GPS time is ahead of UTC by this since 2017
_GPS_EPOCH_S = 315_964_800.0  # 6 January 1980


class DataPacket(NamedTuple):
    """A packet of a data track."""

    #: Seconds since the start of the video.
    time_s: float
    seconds: float
    data: bytes


def telemetry_track(packets: Sequence[DataPacket], source: str) -> Track | None:
    """Return the track in the packets of a data track, on the clock of the video; None if it holds no positions.

    Raises ConfigError if it has positions, but no two usable ones.
    """
    if any(each.data[:4] == b"DEVC" for each in packets[:10]):
        return _gpmf_track(packets, source)
    if packets and all(_camm_type(each.data) is not None for each in packets[:10]):
        return _camm_track(packets, source)
    return None


class _Entry(NamedTuple):
    """A key, type, sample size and content of GPMF."""

    key: bytes
    kind: bytes
    size: int
    content: bytes


def _entries(data: bytes, budget: list[int]) -> Iterator[_Entry]:
    """Yield the entries of a row; a damaged one ends it."""
    at = 0
    while at + 8 <= len(data) and budget[0] > 0:
        budget[0] -= 1
        key, kind, size, repeat = struct.unpack_from(">4scBH", data, at)
        length = size * repeat
        if at + 8 + length > len(data):
            return
        yield _Entry(key, kind, size, data[at + 8 : at + 8 + length])
        at += 8 + -(-length // 4) * 4


def _streams(data: bytes, budget: list[int], depth: int = 0) -> Iterator[dict[bytes, _Entry]]:
    """Yield the entries of each stream by key."""
    if depth > _MAX_DEPTH:
        return
    for entry in _entries(data, budget):
        if entry.key == b"STRM" and entry.kind == b"\0":
            yield {each.key: each for each in _entries(entry.content, budget)}
        elif entry.kind == b"\0":
            yield from _streams(entry.content, budget, depth + 1)


def _gpmf_track(packets: Sequence[DataPacket], source: str) -> Track | None:
    fixes: list[Fix] = []
    starts: list[float] = []
    found = False
    for packet in packets:
        for stream in _streams(packet.data, [_MAX_ENTRIES]):
            key = next((each for each in (b"GPS9", b"GPS5") if each in stream), None)
            if key is None:
                continue
            found = True
            rows = _gps9(stream) if key == b"GPS9" else _gps5(stream)
            for at, (latitude, longitude, accuracy, utc_s) in enumerate(rows):
                time_s = packet.time_s + packet.seconds * at / len(rows)
                fixes.append(Fix(time_s, latitude, longitude, accuracy))
                if utc_s is not None and not starts:
                    starts.append(utc_s - time_s)
    return Track.of(fixes, "video", source, starts[0] if starts else None) if found else None


_Row = tuple[float, float, float, float | None]  # latitude, longitude, accuracy, UTC


def _gps5(stream: dict[bytes, _Entry]) -> list[_Row]:
    """Return the rows of GPS5; none while the receiver has no fix (GPSF)."""
    if (fix := _numbers(stream.get(b"GPSF"))) and fix[0] < 2:
        return []
    dilution = _numbers(stream.get(b"GPSP"))
    accuracy = _accuracy(dilution[0] / 100 if dilution else math.nan)
    utc_s = _gpsu(stream.get(b"GPSU"))
    scales = _scales(stream, 5)
    values = _numbers(stream[b"GPS5"])
    rows = [values[at : at + 5] for at in range(0, min(len(values), 5 * _MAX_SAMPLES) - 4, 5)]
    return [
        (row[0] / scales[0], row[1] / scales[1], accuracy, utc_s if at == 0 else None) for at, row in enumerate(rows)
    ]


def _gps9(stream: dict[bytes, _Entry]) -> list[_Row]:
    """Return the rows of GPS9, each with its own time, dilution of precision and fix."""
    layout = struct.Struct(">7i2H")
    entry, scales = stream[b"GPS9"], _scales(stream, 9)
    found: list[_Row] = []
    whole = len(entry.content) // layout.size * layout.size
    for row in layout.iter_unpack(entry.content[: min(whole, layout.size * _MAX_SAMPLES)]):
        values = [value / scale for value, scale in zip(row, scales, strict=True)]
        if row[8] < 2:
            continue
        utc_s = _GPS_EPOCH_2000.timestamp() + 86_400 * values[5] + values[6]
        found.append((values[0], values[1], _accuracy(values[7]), utc_s))
    return found


def _scales(stream: dict[bytes, _Entry], count: int) -> list[float]:
    values = _numbers(stream.get(b"SCAL")) or [1.0]
    values = values * count if len(values) == 1 else values + [1.0] * max(0, count - len(values))
    return [each or 1.0 for each in values[:count]]


def _numbers(entry: _Entry | None) -> list[float]:
    if entry is None or (letter := _SCALARS.get(entry.kind)) is None:
        return []
    count = len(entry.content) // struct.calcsize(letter)
    return list(struct.unpack_from(f">{count}{letter}", entry.content))


def _gpsu(entry: _Entry | None) -> float | None:
    """Return the time in GPSU, written as `yymmddhhmmss.sss`."""
    if entry is None:
        return None
    try:
        return dt.datetime.strptime(entry.content[:16].decode("ascii") + "+0000", "%y%m%d%H%M%S.%f%z").timestamp()
    except (ValueError, OverflowError):
        return None


def _camm_type(data: bytes) -> int | None:
    """Return the type of a CAMM packet; None if it is none."""
    if len(data) < 4:
        return None
    reserved, kind = struct.unpack_from("<HH", data)
    return kind if reserved == 0 and len(data) - 4 == _CAMM_SIZES.get(kind) else None


def _camm_track(packets: Sequence[DataPacket], source: str) -> Track | None:
    fixes: list[Fix] = []
    start: float | None = None
    found = False
    for packet in packets:
        match _camm_type(packet.data):
            case 5:
                latitude, longitude, _ = struct.unpack_from("<3d", packet.data, 4)
                fixes.append(Fix(packet.time_s, latitude, longitude))
            case 6:
                time, fix, latitude, longitude, _, accuracy = struct.unpack_from("<di2d2f", packet.data, 4)
                found = True
                if fix < 2:
                    continue
                fixes.append(Fix(packet.time_s, latitude, longitude, accuracy if accuracy > 0 else DEFAULT_ACCURACY_M))
                if start is None and math.isfinite(time) and time > 0:
                    start = time + _GPS_EPOCH_S - _LEAP_S - packet.time_s
            case _:
                continue
        found = True
    return Track.of(fixes, "video", source, start) if found else None


def _accuracy(dilution: float) -> float:
    return _DOP_M * max(1.0, dilution) if 0 < dilution < 100 else DEFAULT_ACCURACY_M
