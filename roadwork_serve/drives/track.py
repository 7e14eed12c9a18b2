"""Tracks: where the camera was, and when."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.drives.geometry import distance_m
from roadwork_serve.errors import ConfigError

Floats = NDArray[np.float64]
#: `utc` times are seconds since 1970, `video` times seconds since the start of the recording.
Clock = Literal["utc", "video"]
DEFAULT_ACCURACY_M = 5.0  # of a GPS receiver under open sky, one standard deviation
_MAX_SPEED = 100.0  # metres per second; a faster fix is an error of the receiver
_MAX_GAP_S = 30.0  # between fixes; a tunnel is shorter, a parking longer
_LEAST_S = 1e-3  # between fixes
_LATEST_S = 1e11  # of a clock; the year 5138
_MAX_ACCURACY_M = 1e5
_BEYOND_S = 2.0  # before the first fix and behind the last
_DRIFT = 2.0  # metres of uncertainty for each second to the nearest fix, beyond the first


class Fix(NamedTuple):
    """A position at a time."""

    #: On the track's clock.
    time_s: float
    #: WGS 84, degrees.
    latitude: float
    longitude: float
    #: Standard deviation in metres.
    accuracy_m: float = DEFAULT_ACCURACY_M


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """Fixes in the order of their times, none twice."""

    clock: Clock
    #: Where it was read.
    source: str
    #: [n], rising.
    times_s: Floats
    #: Degrees [n].
    latitudes: Floats
    #: Degrees [n], without a jump at the antimeridian.
    longitudes: Floats
    #: Standard deviations in metres [n].
    accuracies_m: Floats
    #: UTC of the time 0, if a track on the video clock has it.
    start_utc_s: float | None = None

    @classmethod
    def of(cls, fixes: Iterable[Fix], clock: Clock, source: str, start_utc_s: float | None = None) -> "Track":
        """Return the track of fixes in any order. Impossible fixes are left out.

        Raises ConfigError if there are fewer than two.
        """
        usable = sorted(each for each in fixes if _possible(each))
        kept: list[Fix] = []
        for each in usable:
            if kept and each.time_s < kept[-1].time_s + _LEAST_S:
                continue
            kept.append(each)
        kept = _without_jumps(kept)
        if len(kept) < 2:
            raise ConfigError(f"{source} has {len(kept)} usable positions; a track needs two, with times that differ")
        times, latitudes, longitudes, accuracies = (np.array(column, dtype=float) for column in zip(*kept, strict=True))
        return cls(clock, source, times, latitudes, np.unwrap(longitudes, period=360.0), accuracies, start_utc_s)

    @property
    def begin_s(self) -> float:
        """Time of the first fix."""
        return float(self.times_s[0])

    @property
    def end_s(self) -> float:
        """Time of the last fix."""
        return float(self.times_s[-1])

    def shifted(self, seconds: float, clock: Clock | None = None) -> "Track":
        """Return the track with `seconds` added to its times, and on another clock if one is given."""
        start_s = None if self.start_utc_s is None else self.start_utc_s - seconds
        return replace(self, times_s=self.times_s + seconds, clock=clock or self.clock, start_utc_s=start_s)

    def between(self, begin_s: float, end_s: float) -> "Track | None":
        """Return the part of the track from one time to another; None if it has fewer than two fixes there."""
        inside = (self.times_s >= begin_s) & (self.times_s <= end_s)
        if inside.sum() < 2:
            return None
        names = ("times_s", "latitudes", "longitudes", "accuracies_m")
        return replace(self, **{name: getattr(self, name)[inside] for name in names})

    def at(self, time_s: float) -> Fix | None:
        """Return the position at a time, interpolated between two fixes; None where the track has a gap."""
        if not self.begin_s - _BEYOND_S <= time_s <= self.end_s + _BEYOND_S:
            return None
        inside = min(max(time_s, self.begin_s), self.end_s)
        after = int(np.clip(np.searchsorted(self.times_s, inside), 1, len(self.times_s) - 1))
        gap = float(self.times_s[after] - self.times_s[after - 1])
        near = float(np.min(np.abs(self.times_s[after - 1 : after + 1] - time_s)))
        if gap > _MAX_GAP_S and near > _BEYOND_S:
            return None
        share = (inside - self.times_s[after - 1]) / gap
        latitude, longitude, accuracy = (
            float(each[after - 1] + share * (each[after] - each[after - 1]))
            for each in (self.latitudes, self.longitudes, self.accuracies_m)
        )
        return Fix(time_s, latitude, wrapped(longitude), accuracy + _DRIFT * max(0.0, near - 1.0))

    def path(self, begin_s: float, end_s: float) -> list[Fix]:
        """Return the positions from one time to another: both ends, and the fixes between them."""
        inside = self.times_s[(self.times_s > begin_s) & (self.times_s < end_s)]
        found = (self.at(float(each)) for each in (begin_s, *inside, end_s))
        return [each for each in found if each is not None]

    def places(self, times_s: Floats) -> tuple[Floats, Floats]:
        """Return latitudes and longitudes [n] at times [n]; NaN where `at` has no position."""
        latitudes, longitudes = self._nearest(times_s)
        after = np.clip(np.searchsorted(self.times_s, times_s), 1, len(self.times_s) - 1)
        gaps = self.times_s[after] - self.times_s[after - 1]
        near = np.minimum(np.abs(self.times_s[after - 1] - times_s), np.abs(self.times_s[after] - times_s))
        outside = (times_s < self.begin_s - _BEYOND_S) | (times_s > self.end_s + _BEYOND_S)
        lost = outside | ((gaps > _MAX_GAP_S) & (near > _BEYOND_S))
        return np.where(lost, np.nan, latitudes), np.where(lost, np.nan, longitudes)

    def speeds(self, times_s: Floats, window_s: float = 1.0) -> Floats:
        """Return the speed over a window around each time in metres per second [n]; NaN beyond the track."""
        begins, ends = (self._nearest(times_s + side * window_s) for side in (-0.5, 0.5))
        moved = distance_m(begins[0], begins[1], ends[0], ends[1])
        outside = (times_s < self.begin_s - _BEYOND_S) | (times_s > self.end_s + _BEYOND_S)
        return np.where(outside, np.nan, moved / window_s)

    def _nearest(self, times_s: Floats) -> tuple[Floats, Floats]:
        return (
            np.interp(times_s, self.times_s, self.latitudes),
            np.interp(times_s, self.times_s, self.longitudes),
        )


def joined(tracks: Sequence[Track]) -> Track:
    """Return one track of several on the same clock, such as those of the chapters of a drive."""
    if len(tracks) == 1:
        return tracks[0]
    fixes = (
        Fix(float(time), float(latitude), wrapped(float(longitude)), float(accuracy))
        for each in tracks
        for time, latitude, longitude, accuracy in zip(
            each.times_s, each.latitudes, each.longitudes, each.accuracies_m, strict=True
        )
    )
    sources = ", ".join(dict.fromkeys(each.source for each in tracks))
    start = next((each.start_utc_s for each in tracks if each.start_utc_s is not None), None)
    return Track.of(fixes, tracks[0].clock, sources, start)


def wrapped(longitude: float) -> float:
    """Return a longitude from -180 to 180."""
    return (longitude + 180.0) % 360.0 - 180.0


def _possible(fix: Fix) -> bool:
    if not all(np.isfinite(each) for each in fix) or (fix.latitude == 0 and fix.longitude == 0):
        return False  # receivers without a fix write 0, 0
    inside = abs(fix.latitude) <= 90 and abs(fix.longitude) <= 180 and abs(fix.time_s) <= _LATEST_S
    return inside and 0 < fix.accuracy_m <= _MAX_ACCURACY_M


def _without_jumps(fixes: Sequence[Fix]) -> list[Fix]:
    """Leave out fixes that nothing could have reached from the fix before, unless the next one agrees with them."""
    if len(fixes) > 2 and not _reachable(fixes[0], fixes[1]) and _reachable(fixes[1], fixes[2]):
        fixes = fixes[1:]
    kept: list[Fix] = []
    for at, each in enumerate(fixes):
        ahead = fixes[at + 1] if at + 1 < len(fixes) else None
        if not kept or _reachable(kept[-1], each) or (ahead is not None and not _reachable(kept[-1], ahead)):
            kept.append(each)
    return kept


def _reachable(before: Fix, after: Fix) -> bool:
    moved = float(distance_m(before.latitude, before.longitude, after.latitude, after.longitude))
    return moved <= _MAX_SPEED * (after.time_s - before.time_s) + 3 * (before.accuracy_m + after.accuracy_m)
