"""The clock of a camera against that of a track: offsets that are given, or estimated from time zones and stops."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from roadwork_serve.drives.segments import FrameScore
from roadwork_serve.drives.track import Floats, Track
from roadwork_serve.errors import ConfigError

Method = Literal["given", "camera", "time zone", "stops", "start"]
_OVERLAP = 0.5  # share of a recording that its track must cover
_ZONES_S = np.arange(-14 * 4, 14 * 4 + 1) * 900.0  # offsets of time zones are quarters of an hour
_SEARCH_S, _STEP_S = 120.0, 0.5
_STANDING = 0.7  # metres per second
_LEAST_STOP_S = 5.0
_LEAST_AGREEMENT, _LEAST_LEAD = 0.6, 0.1  # correlation, and its distance to the next best offset
_APART_S = 5.0


@dataclass(frozen=True, slots=True)
class Placement:
    """The start of a recording on the clock of a track."""

    start_utc_s: float
    #: How it was found: `given` by the user, by the `camera` clock, by its `time zone`, by `stops`, or from the `start`
    #: of the track, with which a recording without a time is taken to begin.
    method: Method


def camera_time(created: str) -> float | None:
    """Return the time that a container has, in seconds since 1970; None if it has none, or that of a dead battery."""
    try:
        time = dt.datetime.fromisoformat(created)
    except ValueError:
        return None
    time = time if time.tzinfo else time.replace(tzinfo=dt.UTC)
    return time.timestamp() if time.year > 2004 else None


def place_recording(
    track: Track, camera_s: float | None, seconds: float, scores: Sequence[FrameScore], offset_s: float | None = None
) -> Placement:
    """Return when a recording began on the clock of a track with UTC.

    Args:
        track: The track.
        camera_s: The start by the camera's clock; None if the recording has none.
        seconds: Length of the recording.
        scores: Its frames. Those that are skipped show when the camera stood still.
        offset_s: Seconds to add to the camera's clock; None to estimate them.

    Raises:
        ConfigError: The track is of another time.

    """
    if offset_s is not None:
        return Placement((track.begin_s if camera_s is None else camera_s) + offset_s, "given")
    if camera_s is None:
        start_s, method = track.begin_s, "start"
    else:
        shares = [_overlap(track, camera_s + zone, seconds) for zone in _ZONES_S]
        order = sorted(range(len(shares)), key=lambda at: (shares[at] < _OVERLAP, abs(_ZONES_S[at]), _ZONES_S[at]))
        if shares[order[0]] < _OVERLAP:
            raise ConfigError(
                f"{track.source} is of another time than the recording: it begins at {_shown(track.begin_s)} and the "
                f"recording at {_shown(camera_s)}; set --clock-offset, or name the track of this drive"
            )
        zone = float(_ZONES_S[order[0]])
        start_s, method = camera_s + zone, "time zone" if zone else "camera"
    correction = estimate_correction(track, start_s, scores)
    return Placement(start_s, method) if correction is None else Placement(start_s + correction, "stops")


def estimate_correction(track: Track, start_s: float, scores: Sequence[FrameScore]) -> float | None:
    """Return the seconds to add to a start so that the stops in the video and on the track agree.

    None if there are no stops, or no offset within two minutes is clearly the best.
    """
    times = np.array([each.time_s for each in scores])
    stands = np.array([each.probability is None for each in scores], dtype=float)
    if len(times) < 3 or stands.sum() * float(np.median(np.diff(times))) < _LEAST_STOP_S or stands.all():
        return None
    offsets = np.arange(-_SEARCH_S, _SEARCH_S + _STEP_S, _STEP_S)
    agreement = np.array([_agreement(track, start_s + offset + times, stands) for offset in offsets])
    best = int(agreement.argmax())
    elsewhere = agreement[np.abs(offsets - offsets[best]) > _APART_S]
    if agreement[best] < _LEAST_AGREEMENT or agreement[best] - elsewhere.max(initial=-1.0) < _LEAST_LEAD:
        return None
    return float(offsets[best])


def _agreement(track: Track, times_s: Floats, stands: Floats) -> float:
    """Return the correlation of standing in the video and on the track; -1 where the track is too short."""
    speeds = track.speeds(times_s)
    known = ~np.isnan(speeds)
    if known.mean() < _OVERLAP:
        return -1.0
    slow, still = (speeds[known] < _STANDING).astype(float), stands[known]
    if slow.std() == 0 or still.std() == 0:
        return -1.0
    return float(np.corrcoef(slow, still)[0, 1])


def _overlap(track: Track, start_s: float, seconds: float) -> float:
    shared = min(track.end_s, start_s + seconds) - max(track.begin_s, start_s)
    return max(0.0, shared) / max(seconds, 1e-3)


def _shown(time_s: float) -> str:
    return f"{dt.datetime.fromtimestamp(time_s, dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
