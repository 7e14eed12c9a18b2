"""Zones: the segments of one place, on several passes, with how often the place was passed without road work."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.drives.geometry import bearing_deg, distance_m, to_plane, turn_deg
from roadwork_serve.drives.segments import Segment
from roadwork_serve.drives.track import Fix, Track, wrapped

Floats = NDArray[np.float64]
_STEP_M = 5.0  # between the points of a path
_TOLERANCE_M = 15.0  # across the way, beside the uncertainty of both positions
_SHARE = 0.3  # of the shorter path that two segments of one zone have in common
_SAME_WAY_DEG = 60.0  # a zone need not be visible from the other carriageway
_AHEAD_M = 30.0  # a camera sees works from about 60 m on, and their end until it passes it
_VISIT_S = 20.0  # a pass that leaves the place for longer comes back as another pass
_SHOWN = 6
Status = Literal["active", "ended", "unknown"]


@dataclass(frozen=True, slots=True)
class Drive:
    """A drive: its segments, and where the camera was."""

    name: str
    segments: tuple[Segment, ...]
    #: On the clock of the drive, seconds since its start; None if it is unknown where it went.
    track: Track | None = None
    #: UTC of the start in seconds since 1970; None if it is unknown.
    start_utc_s: float | None = None
    #: Begin and end of the stretches whose frames were scored, seconds since the start.
    scored_s: tuple[tuple[float, float], ...] = ()

    def utc_s(self, time_s: float) -> float | None:
        """Return the UTC of a time of the drive."""
        return None if self.start_utc_s is None else self.start_utc_s + time_s


@dataclass(frozen=True, slots=True)
class PlacedSegment:
    """A segment and the way along it."""

    drive: Drive
    segment: Segment
    path: tuple[Fix, ...]
    #: Direction of travel in degrees from north; None while standing.
    heading: float | None

    @property
    def accuracy_m(self) -> float:
        """Uncertainty of the positions in metres, one standard deviation."""
        return float(np.mean([each.accuracy_m for each in self.path]))

    @property
    def middle(self) -> Fix:
        """The middle of the works, which is ahead of the middle of the way from which they are seen."""
        return _ahead(_middle(self.path), self.heading, min(_AHEAD_M, _length(self.path) / 2))

    @property
    def time_utc_s(self) -> float | None:
        """UTC of the best frame."""
        return self.drive.utc_s(self.segment.best_s)


@dataclass(slots=True)
class Zone:
    """A work zone: a place with segments of one or more passes."""

    sightings: list[PlacedSegment] = field(default_factory=list)
    #: UTC of each pass without road work in sight.
    missed_utc_s: list[float | None] = field(default_factory=list)

    @property
    def longest(self) -> PlacedSegment:
        """The sighting with the longest way."""
        return max(self.sightings, key=lambda each: (_length(each.path), each.segment.probability))

    @property
    def place(self) -> Fix:
        """The middle of the zone: the mean of the middles of its sightings, the more certain ones weighing more."""
        middles = [each.middle for each in self.sightings]
        weights = np.array([each.accuracy_m**-2 for each in self.sightings])
        weights /= weights.sum()
        offsets = to_plane(
            np.array([each.latitude for each in middles]),
            np.array([each.longitude for each in middles]),
            middles[0].latitude,
            middles[0].longitude,
        )
        east, north = weights @ offsets
        metres = float(distance_m(0.0, 0.0, 1.0, 0.0))
        latitude = middles[0].latitude + north / metres
        longitude = middles[0].longitude + east / (metres * np.cos(np.radians(middles[0].latitude)))
        spread = float(np.sqrt(weights @ ((offsets - (east, north)) ** 2).sum(axis=1)))
        accuracy = float(np.hypot(np.mean([each.accuracy_m for each in self.sightings]), spread))
        return Fix(middles[0].time_s, float(latitude), wrapped(float(longitude)), accuracy)

    @property
    def probability(self) -> float:
        """Probability of its most certain sighting."""
        return max(each.segment.probability for each in self.sightings)

    @property
    def seen(self) -> tuple[str, ...]:
        """Classes of evidence that were recognized, the most frequent first."""
        counts = Counter(thing for each in self.sightings for thing in each.segment.seen)
        return tuple(thing for thing, _ in counts.most_common(_SHOWN))

    @property
    def first_utc_s(self) -> float | None:
        """UTC at which it was first seen; None if no drive has a time."""
        return min(_known(each.time_utc_s for each in self.sightings), default=None)

    @property
    def last_utc_s(self) -> float | None:
        """UTC at which it was last seen."""
        return max(_known(each.time_utc_s for each in self.sightings), default=None)

    @property
    def status(self) -> Status:
        """Active if the last pass saw it, ended if not; unknown if the order of the passes is."""
        missed = _known(self.missed_utc_s)
        if not self.missed_utc_s:
            return "active"
        if self.last_utc_s is None or len(missed) < len(self.missed_utc_s):
            return "unknown"
        return "ended" if max(missed) > self.last_utc_s else "active"


def find_zones(drives: Sequence[Drive]) -> list[Zone]:
    """Return the zones of drives, in the order in which they were first met.

    Segments without a position belong to no zone. A segment joins the zone whose way it shares most; two segments of
    the same pass stay apart unless they do share it, so that zones close to each other are not joined.
    """
    zones: list[Zone] = []
    for placed in (each for drive in drives for each in _placed(drive)):
        shares = [(_match(placed, zone), zone) for zone in zones]
        share, best = max(shares, key=lambda each: each[0], default=(0.0, None))
        if best is not None and share > 0:
            best.sightings.append(placed)
        else:
            zones.append(Zone([placed]))
    for zone in zones:
        for drive in drives:
            zone.missed_utc_s += [drive.utc_s((begin + end) / 2) for begin, end in _missed(zone, drive)]
    return zones


def _placed(drive: Drive) -> list[PlacedSegment]:
    found: list[PlacedSegment] = []
    for segment in drive.segments:
        path = tuple(drive.track.path(segment.begin_s, segment.end_s)) if drive.track else ()
        if path:
            found.append(PlacedSegment(drive, segment, path, _heading(path)))
    return found


def _match(placed: PlacedSegment, zone: Zone) -> float:
    """Return how much of its way a segment shares with a zone, 0 to 1; 0 if it belongs elsewhere."""
    return max(_shared(placed, other) for other in zone.sightings)


def _shared(one: PlacedSegment, other: PlacedSegment) -> float:
    tolerance = _TOLERANCE_M + float(np.hypot(one.accuracy_m, other.accuracy_m))
    origin = one.path[0]
    ways = [_sampled(each.path, origin) for each in (one, other)]
    if (ways[0].min(0) - tolerance > ways[1].max(0)).any() or (ways[1].min(0) - tolerance > ways[0].max(0)).any():
        return 0.0
    apart = np.sqrt(((ways[0][:, None, :] - ways[1][None, :, :]) ** 2).sum(-1))
    shorter = 0 if len(ways[0]) <= len(ways[1]) else 1
    share = float((apart.min(axis=1 - shorter) <= tolerance).mean())
    same_pass = one.drive is other.drive and abs(one.segment.begin_s - other.segment.begin_s) < 3 * _VISIT_S
    if same_pass and share < 2 * _SHARE:
        return 0.0
    return share if share >= _SHARE else 0.0


def _sampled(path: Sequence[Fix], origin: Fix) -> Floats:
    """Return points of a path at most `_STEP_M` apart, in metres east and north of a place [n, 2]."""
    corners = to_plane(
        np.array([each.latitude for each in path]),
        np.array([each.longitude for each in path]),
        origin.latitude,
        origin.longitude,
    )
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    wanted = np.linspace(0, along[-1], max(2, min(2000, int(along[-1] / _STEP_M) + 2)))
    return np.stack([np.interp(wanted, along, corners[:, axis]) for axis in (0, 1)], -1)


def _missed(zone: Zone, drive: Drive) -> list[tuple[float, float]]:
    """Return begin and end of each pass of a drive by a zone without one of its sightings."""
    if drive.track is None:
        return []
    place, headings = zone.place, [each.heading for each in zone.sightings if each.heading is not None]
    track = drive.track
    radius = _TOLERANCE_M + place.accuracy_m
    times = np.arange(max(0.0, track.begin_s), track.end_s + 0.25, 0.5)
    latitudes, longitudes = track.places(times)  # NaN where the track has a gap, which is near nothing
    near = distance_m(latitudes, longitudes, place.latitude, place.longitude) <= radius
    passes: list[list[float]] = []
    for time in times[near]:
        if passes and time - passes[-1][1] <= _VISIT_S:
            passes[-1][1] = float(time)
        else:
            passes.append([float(time), float(time)])
    seen = [each.segment for each in zone.sightings if each.drive is drive]
    return [
        (begin, end)
        for begin, end in passes
        if not any(each.begin_s <= end + _VISIT_S and each.end_s >= begin - _VISIT_S for each in seen)
        and any(start <= begin and end <= stop for start, stop in drive.scored_s)
        and _same_way(_heading(track.path(begin - 1, end + 1)), headings)
    ]


def _same_way(heading: float | None, others: Sequence[float]) -> bool:
    return heading is None or not others or any(turn_deg(heading, each) <= _SAME_WAY_DEG for each in others)


def _heading(path: Sequence[Fix]) -> float | None:
    if len(path) < 2 or _length((path[0], path[-1])) < _STEP_M:
        return None
    return bearing_deg(path[0].latitude, path[0].longitude, path[-1].latitude, path[-1].longitude)


def _ahead(fix: Fix, heading: float | None, metres: float) -> Fix:
    if heading is None:
        return fix
    metre = 1 / float(distance_m(0.0, 0.0, 1.0, 0.0))  # in degrees of latitude
    north, east = metres * np.cos(np.radians(heading)), metres * np.sin(np.radians(heading))
    longitude = fix.longitude + east * metre / np.cos(np.radians(fix.latitude))
    return fix._replace(latitude=float(fix.latitude + north * metre), longitude=wrapped(float(longitude)))


def _length(path: Sequence[Fix]) -> float:
    return sum(
        float(distance_m(before.latitude, before.longitude, after.latitude, after.longitude))
        for before, after in pairwise(path)
    )


def _middle(path: Sequence[Fix]) -> Fix:
    """Return the point halfway along a path."""
    left = _length(path) / 2
    for before, after in pairwise(path):
        step = _length((before, after))
        if step >= left and step > 0:
            share = left / step
            latitude = before.latitude + share * (after.latitude - before.latitude)
            longitude = before.longitude + share * wrapped(after.longitude - before.longitude)
            time_s = before.time_s + share * (after.time_s - before.time_s)
            return Fix(time_s, latitude, wrapped(longitude), max(before.accuracy_m, after.accuracy_m))
        left -= step
    return path[0]


def _known(times: Iterable[float | None]) -> list[float]:
    return [each for each in times if each is not None]
