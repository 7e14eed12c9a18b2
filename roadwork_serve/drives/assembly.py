"""Puts drives together: the scores of chapters in order, their tracks on one clock, segments and zones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

import numpy as np

from roadwork_serve.drives.clock import camera_time, place_recording
from roadwork_serve.drives.recording_reader import PhotoPosition
from roadwork_serve.drives.score_log import FileScores
from roadwork_serve.drives.segments import FrameScore, find_segments
from roadwork_serve.drives.smoothing import SmoothingModel
from roadwork_serve.drives.sources import Recording, chains
from roadwork_serve.drives.track import DEFAULT_ACCURACY_M, Fix, Track, joined
from roadwork_serve.drives.zones import Drive, Zone, find_zones
from roadwork_serve.errors import ConfigError

_MARGIN_S = 2.0  # of a track beyond its drive
_NOTED_S = 1.0  # a smaller correction of a clock is not worth a note
_GAP_S = 5.0  # between frames of one stretch
_PHOTO_GAP_S = 600.0  # between photos of one drive


@dataclass(frozen=True, slots=True)
class ScoredFile:
    """A recording or photo with its scores, and the positions that it holds."""

    recording: Recording
    scores: FileScores
    #: Of a video.
    track: Track | None = None
    #: Of a photo.
    position: PhotoPosition | None = None


@dataclass(frozen=True, slots=True)
class Chapter:
    """A file of a drive, and when it begins, in seconds since the start of the drive."""

    recording: Recording
    begin_s: float


@dataclass(frozen=True, slots=True)
class DriveMap:
    """The result: drives with their segments, and the zones of all of them."""

    drives: tuple[Drive, ...]
    #: By drive.
    chapters: tuple[tuple[Chapter, ...], ...]
    zones: tuple[Zone, ...]
    #: What could not be used, for people.
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Assembly:
    """The settings of putting drives together, and the notes on what could not be used."""

    model: SmoothingModel
    #: Tracks that the user named.
    tracks: Sequence[Track] = ()
    #: Seconds to add to the clock of the camera; None to estimate them.
    clock_offset_s: float | None = None
    #: Returns the track of a recording that has none in its data tracks.
    other_track: Callable[[Recording], Track | None] = lambda _: None
    notes: list[str] = field(default_factory=list)

    def assemble(self, files: Sequence[ScoredFile]) -> DriveMap:
        """Return the map of scored files, which are in the order of their chapters."""
        videos = [each for each in files if not each.recording.photo]
        photos = [each for each in files if each.recording.photo]
        found = [*self._videos(videos), *self._photos(photos)]
        drives = tuple(drive for drive, _ in found)
        return DriveMap(drives, tuple(each for _, each in found), tuple(find_zones(drives)), tuple(self.notes))

    def _videos(self, files: Sequence[ScoredFile]) -> Iterator[tuple[Drive, tuple[Chapter, ...]]]:
        seconds = [each.scores.seconds or each.scores.last_s or 0.0 for each in files]
        for numbers in chains([each.recording for each in files], seconds):
            chapters = [files[number] for number in numbers]
            begins: list[float] = np.cumsum([0.0, *(seconds[number] for number in numbers)]).tolist()
            scores = [
                FrameScore(begin + each.time_s, each.probability, each.seen)
                for begin, file in zip(begins, chapters, strict=False)
                for each in file.scores.scores()
            ]
            track, start_s = self._track(chapters, begins, scores)
            yield (
                self._drive(chapters[0].recording.name, scores, track, start_s),
                tuple(Chapter(file.recording, begin) for begin, file in zip(begins, chapters, strict=False)),
            )

    def _drive(self, name: str, scores: Sequence[FrameScore], track: Track | None, start_s: float | None) -> Drive:
        stretches = _stretches([each.time_s for each in scores])
        return Drive(name, tuple(find_segments(scores, self.model)), track, start_s, stretches)

    def _track(
        self, chapters: Sequence[ScoredFile], begins: Sequence[float], scores: Sequence[FrameScore]
    ) -> tuple[Track | None, float | None]:
        """Return the track of a drive on its own clock, and the UTC of its start."""
        named = chapters[0].recording.named_start_s
        camera_s = camera_time(chapters[0].scores.created) if named is None else named
        own: list[Track] = []
        others: list[Track] = []
        for begin, file in zip(begins, chapters, strict=False):
            found = file.track or self._other_track(file.recording)
            if found is not None:
                (own if found.clock == "video" else others).append(
                    found.shifted(begin) if found.clock == "video" else found
                )
        if own:
            track = joined(own)
            return track, track.start_utc_s if track.start_utc_s is not None else camera_s
        candidates = others or [each for each in self.tracks if each.clock == "utc"]
        if not candidates:
            alone = [each for each in self.tracks if each.clock == "video"]
            if len(alone) == 1 and len(self.tracks) == 1:
                return alone[0].shifted(self.clock_offset_s or 0.0), camera_s
            self.notes.append(f"{chapters[0].recording.name} has no positions; name its track with --track")
            return None, camera_s
        whole = joined(candidates)
        try:
            placed = place_recording(whole, camera_s, begins[-1], scores, self.clock_offset_s)
        except ConfigError as error:
            self.notes.append(f"{chapters[0].recording.name}: {error}")
            return None, camera_s
        shift = placed.start_utc_s - (whole.begin_s if camera_s is None else camera_s)
        if placed.method in ("time zone", "stops") and abs(shift) >= _NOTED_S:
            reason = "the stops of the car" if placed.method == "stops" else "its time zone"
            name = chapters[0].recording.name
            self.notes.append(f"{name}: the camera's clock was moved by {shift:+,.1f} s, by {reason}")
        track = whole.shifted(-placed.start_utc_s, "video")
        return track.between(-_MARGIN_S, begins[-1] + _MARGIN_S), placed.start_utc_s

    def _other_track(self, recording: Recording) -> Track | None:
        try:
            return self.other_track(recording)
        except ConfigError as error:
            self.notes.append(str(error))
            return None

    def _photos(self, files: Sequence[ScoredFile]) -> Iterator[tuple[Drive, tuple[Chapter, ...]]]:
        """Yield the drives that the photos of each folder are of."""
        timed: list[tuple[float, ScoredFile]] = []
        for each in files:
            time_s = None if each.position is None else _photo_time(each.position, self.clock_offset_s or 0.0)
            if time_s is None:
                self.notes.append(f"{each.recording.name} has no time in its EXIF and belongs to no drive")
            else:
                timed.append((time_s, each))
        timed.sort(key=lambda pair: (str(pair[1].recording.path.parent), pair[0]))
        for _, group in groupby(timed, key=lambda pair: pair[1].recording.path.parent):
            drives: list[list[tuple[float, ScoredFile]]] = []
            for pair in group:
                if drives and pair[0] - drives[-1][-1][0] <= _PHOTO_GAP_S:
                    drives[-1].append(pair)
                else:
                    drives.append([pair])
            yield from (self._photo_drive(each) for each in drives)

    def _photo_drive(self, timed: Sequence[tuple[float, ScoredFile]]) -> tuple[Drive, tuple[Chapter, ...]]:
        start_s = timed[0][0]
        scores = [
            FrameScore(time_s - start_s, each.probability, each.seen)
            for time_s, file in timed
            for each in file.scores.frames
        ]
        fixes = [
            Fix(time_s - start_s, place.latitude, place.longitude, place.accuracy_m or DEFAULT_ACCURACY_M)
            for time_s, file in timed
            if (place := file.position) is not None and place.latitude is not None and place.longitude is not None
        ]
        name = timed[0][1].recording.name
        track = None
        try:
            track = Track.of(fixes, "video", name)
        except ConfigError as error:
            self.notes.append(str(error))
        chapters = tuple(Chapter(file.recording, time_s - start_s) for time_s, file in timed)
        return self._drive(name, scores, track, start_s), chapters


def _photo_time(position: PhotoPosition, offset_s: float) -> float | None:
    if position.utc_s is not None:
        return position.utc_s
    return None if position.local_s is None else position.local_s + offset_s


def _stretches(times: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Return begin and end of the stretches without a gap."""
    if not times:
        return ()
    begins = [times[0], *(after for before, after in pairwise(times) if after - before > _GAP_S)]
    ends = [*(before for before, after in pairwise(times) if after - before > _GAP_S), times[-1]]
    return tuple(zip(begins, ends, strict=True))


def chapter_at(chapters: Sequence[Chapter], time_s: float) -> Chapter:
    """Return the chapter that shows a time of its drive."""
    return max((each for each in chapters if each.begin_s <= time_s + 1e-6), key=lambda each: each.begin_s)
