"""Positions in recordings of cameras whose layouts only ExifTool knows, such as Novatek, Viofo and BlackVue.

ExifTool is a program that the user may have installed; it is given the file itself and is not confined.
"""

import datetime as dt
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from roadwork_serve.drives.track import Fix, Track

_ARGUMENTS = (
    "-config", "",  # without the user's own settings, which may run code
    "-ee3", "-n", "-q", "-q", "-f", "-api", "LargeFileSupport=1",
    "-p", "$SampleTime,$GPSDateTime,$GPSLatitude,$GPSLongitude",
)  # fmt: skip
_MAX_S = 600.0
_MAX_BYTES = 32 * 2**20  # a day of one position a second is 5 MB
_INHERITED = ("PATH", "LANG", "LC_ALL", "PERL5LIB")


def exiftool_track(path: Path, source: str) -> Track | None:
    """Return the track that ExifTool finds in a recording, on the clock of the video.

    None if ExifTool is not installed, fails, or finds no positions. Raises ConfigError if no two of them are usable.
    """
    program = shutil.which("exiftool")
    if program is None:
        return None
    rows = list(_rows(_output(program, path)))
    if not rows:
        return None
    start_s = next((utc_s - (sample_s or 0.0) for sample_s, utc_s, _, _ in rows if utc_s is not None), None)
    fixes: list[Fix] = []
    for sample_s, utc_s, latitude, longitude in rows:
        # Layouts without times of samples have one a second, from the start on.
        time_s = sample_s if sample_s is not None else utc_s - start_s if utc_s is not None and start_s else None
        if time_s is not None:
            fixes.append(Fix(time_s, latitude, longitude))
    return Track.of(fixes, "video", source, start_s)


def _output(program: str, path: Path) -> str:
    """Return what ExifTool prints, at most `_MAX_BYTES` of it."""
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    command = [program, *_ARGUMENTS, str(path.absolute())]
    with subprocess.Popen(  # noqa: S603 - an absolute path is no option
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            return process.communicate(timeout=_MAX_S)[0][:_MAX_BYTES].decode("ascii", "replace")
        except subprocess.TimeoutExpired:
            process.kill()
            return ""


def _rows(output: str) -> Iterator[tuple[float | None, float | None, float, float]]:
    """Yield time in the video, UTC, latitude and longitude of each line that has a position."""
    for line in output.splitlines():
        parts = line.split(",")
        if len(parts) != 4:
            continue
        sample_s, latitude, longitude = (_number(parts[at]) for at in (0, 2, 3))
        if latitude is not None and longitude is not None:
            yield sample_s, _time(parts[1]), latitude, longitude


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # a dash, where there is none
        return None


def _time(text: str) -> float | None:
    try:
        return dt.datetime.strptime(text[:19], "%Y:%m:%d %H:%M:%S").replace(tzinfo=dt.UTC).timestamp()
    except ValueError:
        return None
