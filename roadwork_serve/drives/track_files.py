"""Tracks in files of their own: GPX, NMEA 0183, and the subtitles of drones (SRT)."""

import datetime as dt
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from roadwork_serve.drives.track import DEFAULT_ACCURACY_M, Fix, Track
from roadwork_serve.errors import ConfigError
from roadwork_serve.local_files import read_problem

TRACK_SUFFIXES = (".gpx", ".nmea", ".nme", ".gps", ".srt")
_MAX_BYTES = 64 * 2**20  # a day of one fix a second is 20 MB as GPX
_DOP_M = 5.0  # metres of error for each unit of dilution of precision
_SENTENCE = re.compile(r"\$[A-Z]{2}(?:RMC|GGA),[^\r\n$]{10,100}")
_CUE = re.compile(r"(\d{1,3}):(\d\d):(\d\d)[,.](\d{3})\s*-->")
_NUMBER = r"([-+]?\d{1,3}(?:\.\d{1,12})?)"
# DJI writes `[latitude: 48.1] [longitude: 11.5]`, some models `longtitude`, older ones `GPS(11.5,48.1,20)`.
_BY_NAME = re.compile(rf"latitude\s*:\s*{_NUMBER}\]?.{{0,40}}?longt?itude\s*:\s*{_NUMBER}", re.DOTALL)
_BY_ORDER = re.compile(rf"GPS\s*\(\s*{_NUMBER}\s*,\s*{_NUMBER}")


def read_track(path: Path) -> Track:
    """Return the track in a file, whose format is told by its content.

    Raises ConfigError if the file cannot be read, is in another format, or has no two usable positions.
    """
    text = _text(path)
    for mark, read in _READERS.items():
        if re.search(mark, text[:100_000]):
            return read(text, path.name)
    raise ConfigError(f"{path} holds no track; name a GPX file, NMEA sentences or the subtitles (SRT) of a drone")


def read_gpx(text: str, source: str) -> Track:
    """Return the track of a GPX file. Raises ConfigError."""
    import gpxpy
    from gpxpy.gpx import GPXException

    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ConfigError(f"{source} has a document type, which no GPX file needs; remove it")
    try:
        parsed = gpxpy.parse(text)
        points = [point for track in parsed.tracks for segment in track.segments for point in segment.points]
        fixes = [
            Fix(_utc(point.time), point.latitude, point.longitude, _accuracy(point.horizontal_dilution))
            for point in points
            if point.time is not None
        ]
    except (GPXException, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise ConfigError(f"{source} cannot be read as GPX: {error}") from None
    if points and not fixes:
        raise ConfigError(f"the points of {source} have no times; record the track again with times")
    return Track.of(fixes, "utc", source)


def read_nmea(text: str, source: str) -> Track:
    """Return the track of NMEA sentences; those with a wrong checksum are left out. Raises ConfigError."""
    return Track.of(_nmea_fixes(text), "utc", source)


def read_srt(text: str, source: str) -> Track:
    """Return the track in a drone's subtitles, on the clock of the video. Raises ConfigError."""
    cues = list(_CUE.finditer(text))
    ends = [each.start() for each in cues[1:]] + [len(text)]
    fixes: list[Fix] = []
    for cue, end in zip(cues, ends, strict=True):
        body = text[cue.end() : min(end, cue.end() + 2000)]
        hours, minutes, seconds, millis = map(int, cue.groups())
        time_s = 3600 * hours + 60 * minutes + seconds + millis / 1000
        if found := _BY_NAME.search(body):
            fixes.append(Fix(time_s, float(found[1]), float(found[2])))
        elif found := _BY_ORDER.search(body):
            fixes.append(Fix(time_s, float(found[2]), float(found[1])))
    return Track.of(fixes, "video", source)


_READERS: Mapping[str, Callable[[str, str], Track]] = {
    r"<gpx\b": read_gpx,
    r"\$[A-Z]{2}(?:RMC|GGA),": read_nmea,
    _CUE.pattern: read_srt,
}


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {read_problem(path, error)}") from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path} has more than {_MAX_BYTES:,} bytes; split the track")
    return data.decode("utf-8-sig", "replace")


def _nmea_fixes(text: str) -> Iterator[Fix]:
    """Yield a fix for each RMC sentence, with the accuracy of the GGA sentence before it."""
    import pynmea2

    accuracy = DEFAULT_ACCURACY_M
    for found in _SENTENCE.finditer(text):
        try:
            sentence: Any = pynmea2.parse(found[0].rstrip())
            if sentence.sentence_type == "GGA":
                accuracy = _accuracy(float(sentence.horizontal_dil or "nan"))
            elif sentence.status == "A":
                time = dt.datetime.combine(sentence.datestamp, sentence.timestamp)
                yield Fix(_utc(time), sentence.latitude, sentence.longitude, accuracy)
        except (pynmea2.ParseError, ValueError, TypeError, AttributeError, ArithmeticError):
            continue  # one damaged sentence


def _accuracy(dilution: float | None) -> float:
    usable = dilution is not None and 0 < dilution < 100
    return _DOP_M * max(1.0, dilution) if usable and dilution is not None else DEFAULT_ACCURACY_M


def _utc(time: dt.datetime) -> float:
    """Return seconds since 1970; a time without a zone is UTC, as both formats have it."""
    return (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp()
