"""Tracks and videos that the tests make: a drive along a meridian at 10 m/s, written in several layouts."""

import io
import math
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import av
import numpy as np
from PIL import Image

START = datetime(2026, 5, 4, 8, 30, tzinfo=UTC)
LATITUDE, LONGITUDE = 48.1, 11.5
STEP_DEG = 10 / 111_195.08  # 10 metres of latitude
Place = tuple[float, float, float]  # seconds, latitude, longitude


def places(count: int = 30) -> list[Place]:
    """Return a position each second, ten metres farther north each time."""
    return [(float(at), LATITUDE + at * STEP_DEG, LONGITUDE) for at in range(count)]


def gpx(found: Sequence[Place]) -> str:
    points = "".join(
        f'<trkpt lat="{lat:.7f}" lon="{lon:.7f}"><time>{(START + timedelta(seconds=at)).isoformat()}</time></trkpt>'
        for at, lat, lon in found
    )
    head = '<?xml version="1.0"?><gpx version="1.1" creator="test" xmlns="http://www.topografix.com/GPX/1/1">'
    return f"{head}<trk><trkseg>{points}</trkseg></trk></gpx>"


def nmea(found: Sequence[Place]) -> str:
    return "".join(_sentence(at, lat, lon) for at, lat, lon in found)


def _sentence(at: float, lat: float, lon: float) -> str:
    time = START + timedelta(seconds=at)
    body = (
        f"GPRMC,{time:%H%M%S}.00,A,{_degrees(lat, 2)},{'N' if lat >= 0 else 'S'},"
        f"{_degrees(lon, 3)},{'E' if lon >= 0 else 'W'},19.4,0.0,{time:%d%m%y},,,A"
    )
    check = 0
    for byte in body.encode():
        check ^= byte
    return f"${body}*{check:02X}\r\n"


def _degrees(value: float, digits: int) -> str:
    whole = math.floor(abs(value))
    return f"{whole:0{digits}d}{(abs(value) - whole) * 60:08.5f}"


def srt(found: Sequence[Place], line: str = "[latitude: {lat:.7f}] [longitude: {lon:.7f}]") -> str:
    return "".join(
        f"{number}\n00:00:{at:06.3f} --> 00:00:{at + 1:06.3f}\n".replace(".", ",")
        + line.format(lat=lat, lon=lon)
        + "\n\n"
        for number, (at, lat, lon) in enumerate(found, 1)
    )


def klv(key: bytes, kind: bytes, size: int, content: bytes) -> bytes:
    """Return an entry of GPMF."""
    padded = content + bytes(-len(content) % 4)
    return key + struct.pack(">cBH", kind, size, len(content) // max(1, size)) + padded


def nested(key: bytes, *content: bytes) -> bytes:
    joined = b"".join(content)
    return key + struct.pack(">cBH", b"\0", 1, len(joined)) + joined


def gps5(at: float, lat: float, lon: float, fix: int = 3) -> bytes:
    """Return the GPMF of a second: ten rows, of a camera that moves as in `places`."""
    rows = b"".join(
        struct.pack(">5i", round((lat + part * STEP_DEG / 10) * 1e7), round(lon * 1e7), 0, 10_000, 10_000)
        for part in range(10)
    )
    utc = (START + timedelta(seconds=at)).strftime("%y%m%d%H%M%S.000").encode()
    return nested(
        b"DEVC",
        klv(b"DVID", b"L", 4, struct.pack(">L", 1)),
        nested(
            b"STRM",
            klv(b"GPSF", b"L", 4, struct.pack(">L", fix)),
            klv(b"GPSU", b"U", 16, utc),
            klv(b"GPSP", b"S", 2, struct.pack(">H", 150)),
            klv(b"SCAL", b"l", 4, struct.pack(">5i", 10_000_000, 10_000_000, 1000, 1000, 100)),
            klv(b"GPS5", b"l", 20, rows),
        ),
    )


def gps9(at: float, lat: float, lon: float) -> bytes:
    time = START + timedelta(seconds=at)
    days = (time - datetime(2000, 1, 1, tzinfo=UTC)).days
    millis = round((time - time.replace(hour=0, minute=0, second=0)).total_seconds() * 1000)
    row = struct.pack(">7i2H", round(lat * 1e7), round(lon * 1e7), 0, 0, 0, days, millis, 150, 3)
    scales = struct.pack(">9i", 10_000_000, 10_000_000, 1000, 1000, 100, 1, 1000, 100, 1)
    return nested(b"DEVC", nested(b"STRM", klv(b"SCAL", b"l", 4, scales), klv(b"GPS9", b"?", 32, row)))


def camm(at: float, lat: float, lon: float) -> bytes:
    time = (START - datetime(1980, 1, 6, tzinfo=UTC)).total_seconds() + 18 + at
    return struct.pack("<HHdi2d7f", 0, 6, time, 3, lat, lon, 520.0, 4.0, 8.0, 0, 10, 0, 0.5)


def video(
    seconds: float = 6.0,
    fps: int = 10,
    size: tuple[int, int] = (320, 240),
    picture: Callable[[float], np.ndarray] | None = None,
    telemetry: Callable[[float, float, float], bytes] | None = None,
    format: str = "mp4",
    created: datetime | None = None,
) -> bytes:
    """Return a video, with a packet of telemetry each second if `telemetry` is given."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        if created is not None:
            container.metadata["creation_time"] = created.isoformat().replace("+00:00", "Z")
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "g": str(2 * fps)})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        data = container.add_data_stream("bin_data") if telemetry else None
        found = places(math.ceil(seconds))
        for number in range(round(seconds * fps)):
            if data is not None and telemetry is not None and number % fps == 0:
                packet = av.Packet(telemetry(*found[number // fps]))
                packet.stream, packet.time_base = data, Fraction(1, 1000)
                packet.pts = packet.dts = 1000 * number // fps
                packet.duration = 1000
                container.mux(packet)
            pixels = picture(number / fps) if picture else _moving(number / fps, size)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
    return file.getvalue()


def _moving(at_s: float, size: tuple[int, int]) -> np.ndarray:
    """Return a picture of bars that move."""
    across = (np.arange(size[0]) + 60 * at_s) // 20 % 2
    return np.broadcast_to((across * 200 + 20).astype(np.uint8)[None, :, None], (size[1], size[0], 3)).copy()


def photo(latitude: float | None, longitude: float | None, at: datetime = START, level: int = 90) -> bytes:
    """Return a JPEG with its place, its time by satellites and by a camera that is two hours ahead."""
    image = Image.new("RGB", (64, 48), (level, level, level))
    tags = Image.Exif()
    exif = tags.get_ifd(0x8769)
    exif[0x9003] = f"{at + timedelta(hours=2):%Y:%m:%d %H:%M:%S}"
    exif[0x9011] = "+02:00"
    if latitude is not None and longitude is not None:
        gps = tags.get_ifd(0x8825)
        gps.update({1: "N" if latitude >= 0 else "S", 2: _parts(latitude), 3: "E" if longitude >= 0 else "W"})
        gps.update({4: _parts(longitude), 7: (at.hour, at.minute, at.second), 29: f"{at:%Y:%m:%d}"})
    into = io.BytesIO()
    image.save(into, "JPEG", exif=tags)
    return into.getvalue()


def _parts(value: float) -> tuple[float, float, float]:
    minutes = abs(value) % 1 * 60
    return (float(math.floor(abs(value))), float(math.floor(minutes)), minutes % 1 * 60)
