"""The position and time in the EXIF of a photo. Runs in the confined process."""

import datetime as dt
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from PIL import Image
from pillow_heif.as_plugin import HeifImageFile

# EXIF 2.32: tags, and the places of the GPS and Exif tags.
_GPS, _EXIF = 0x8825, 0x8769
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE, _TIME, _DATE, _ERROR = 1, 2, 3, 4, 7, 29, 31
_TAKEN, _OFFSET, _FRACTION = 0x9003, 0x9011, 0x9291
dt.datetime.strptime("2026", "%Y")  # imports what it needs, which a confined process cannot
_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP", "image/tiff": "TIFF"}


def exif_position(data: bytes, mime: str) -> dict[str, float | None]:
    """Return latitude, longitude and accuracy_m, utc_s by the satellites, and local_s by the camera's clock.

    Each is None where the photo does not have it, or it is damaged.
    """
    try:
        if mime in ("image/heic", "image/heif"):
            image: Image.Image = HeifImageFile(BytesIO(data))
        elif mime in _FORMATS:
            image = Image.open(BytesIO(data), formats=(_FORMATS[mime],))
        else:
            return _NOTHING
        tags = image.getexif()
        gps, exif = tags.get_ifd(_GPS), tags.get_ifd(_EXIF)
    except Exception:  # any damage to the tags; the picture itself may be whole
        return _NOTHING
    place = _degrees(gps, _LATITUDE, _LATITUDE_REF, "S"), _degrees(gps, _LONGITUDE, _LONGITUDE_REF, "W")
    latitude, longitude = place if None not in place else (None, None)
    return {
        "latitude": latitude,
        "longitude": longitude,
        "accuracy_m": _number(gps.get(_ERROR)),
        "utc_s": _satellite_time(gps),
        "local_s": _camera_time(exif),
    }


_NOTHING: dict[str, float | None] = dict.fromkeys(("latitude", "longitude", "accuracy_m", "utc_s", "local_s"))


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if abs(number) < 1e9 else None  # false for NaN too


def _degrees(gps: Mapping[int, Any], tag: int, reference: int, negative: str) -> float | None:
    parts = gps.get(tag)
    if not isinstance(parts, tuple) or len(parts) != 3 or None in (numbers := [_number(each) for each in parts]):
        return None
    degrees, minutes, seconds = (each for each in numbers if each is not None)
    value = degrees + minutes / 60 + seconds / 3600
    return -value if str(gps.get(reference, "")).strip("\0 ").upper() == negative else value


def _satellite_time(gps: Mapping[int, Any]) -> float | None:
    parts = gps.get(_TIME)
    if not isinstance(parts, tuple) or len(parts) != 3 or None in (numbers := [_number(each) for each in parts]):
        return None
    hours, minutes, seconds = (each for each in numbers if each is not None)
    try:
        day = dt.datetime.strptime(str(gps.get(_DATE, "")).strip("\0 "), "%Y:%m:%d").replace(tzinfo=dt.UTC)
        return (day + dt.timedelta(hours=hours, minutes=minutes, seconds=seconds)).timestamp()
    except (ValueError, OverflowError):
        return None


def _camera_time(exif: Mapping[int, Any]) -> float | None:
    """Return the time of the camera's clock; as UTC if the photo names no offset."""
    try:
        taken = dt.datetime.strptime(str(exif.get(_TAKEN, "")).strip("\0 "), "%Y:%m:%d %H:%M:%S")
        zone = dt.datetime.strptime(str(exif.get(_OFFSET) or "+00:00").strip("\0 "), "%z").tzinfo
        fraction = _number(f"0.{str(exif.get(_FRACTION) or '0').strip()}") or 0.0
        return taken.replace(tzinfo=zone).timestamp() + fraction
    except (ValueError, OverflowError):
        return None
