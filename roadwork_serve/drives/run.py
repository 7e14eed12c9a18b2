"""A resumable run: recordings are scored into a folder, and what they show becomes its map."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from roadwork_serve.atomic_write import replace_file, write_text
from roadwork_serve.drives.assembly import Assembly, DriveMap, ScoredFile, chapter_at
from roadwork_serve.drives.exiftool import exiftool_track
from roadwork_serve.drives.map_files import frame_name, write_map_files
from roadwork_serve.drives.map_page import map_page
from roadwork_serve.drives.recording_reader import RecordingReader
from roadwork_serve.drives.score_log import ScoreLog
from roadwork_serve.drives.scoring import Classifier, RecordingScorer, ScoringSettings, seen_in
from roadwork_serve.drives.segments import FrameScore
from roadwork_serve.drives.sources import Recording
from roadwork_serve.drives.telemetry import telemetry_track
from roadwork_serve.drives.track import Track
from roadwork_serve.drives.track_files import read_track
from roadwork_serve.errors import ConfigError, DeadlineExceeded, MediaError, NoOpinion
from roadwork_serve.profiles.media_limits import MediaLimits

PAGE = "index.html"
_FRAME_SIDE = 640  # pixels of the best frames
_LOG, _SPEC, _LOCK = "scores.jsonl", "run.json", ".lock"


class DriveSpec(BaseModel):
    """The parameters of a run that its scores depend on. A run can be resumed with equal ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: The server's URL, or the names of the profile and the policy.
    cascade: str
    step_s: float
    version: str


@dataclass(slots=True)
class Progress:
    """The progress of a run."""

    files: int
    #: Number of the file that is read, from 1.
    file: int = 0
    #: Seconds of recordings that this run has read.
    read_s: float = 0.0
    began_s: float = field(default_factory=time.monotonic)

    @property
    def speed(self) -> float:
        """Seconds of recordings for each second of work."""
        return self.read_s / max(time.monotonic() - self.began_s, 1e-3)


@dataclass(slots=True)
class DriveRun:
    """A run into a folder.

    Args:
        out: The folder; the log of scores lies in it.
        spec: See `DriveSpec`.
        limits: Limits on photos and frames.
        settings: How recordings are scored.
        on_progress: Called with each frame.

    """

    out: Path
    spec: DriveSpec
    limits: MediaLimits
    settings: ScoringSettings
    on_progress: Callable[[Progress], None] = lambda _: None
    #: Protections of the reading process that the system lacks.
    lacks: tuple[str, ...] = ()

    @contextmanager
    def opened(self) -> Iterator[ScoreLog]:
        """Lock the folder and open its log.

        Raises ConfigError if another process has it, or it is of a run with other parameters.
        """
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.out} cannot be created: {error.strerror or error}; name another --out") from None
        lock = FileLock(self.out / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(f"another run is writing {self.out}; wait for it, or name another --out") from None
        try:
            self._check_spec()
            with ScoreLog(self.out / _LOG) as log:
                yield log
        finally:
            lock.release()

    async def score(
        self, recordings: Sequence[Recording], log: ScoreLog, classify: Classifier
    ) -> tuple[list[ScoredFile], list[str]]:
        """Score what is not in the log yet. Return the files with their scores, and notes on those that failed.

        Raises the errors of a server that cannot be reached; run it again to continue.
        """
        found: list[ScoredFile] = []
        notes: list[str] = []
        progress = Progress(len(recordings))
        known: dict[str, str] = {}
        for number, recording in enumerate(recordings, 1):
            progress.file, file = number, ""
            self.on_progress(progress)
            try:
                file = recording.identity()
                if file in known:
                    notes.append(f"{recording.name} has the bytes of {known[file]} and is left out")
                    continue
                known[file] = recording.name
                found.append(await self._scored(recording, file, log, classify, progress))
            except (MediaError, NoOpinion, DeadlineExceeded, OSError) as error:
                notes.append(f"{recording.name}: {error}")
                if (partial := log.of(file)).frames:
                    found.append(ScoredFile(recording, partial))
                continue
            if not found[-1].scores.complete:
                notes.append(f"{recording.name} is damaged or its end is missing; what could be read is on the map")
            if problems := found[-1].scores.problems:
                reasons = ", ".join(sorted({reason for _, reason in problems}))
                notes.append(f"{recording.name}: {len(problems)} frames or clips have no score ({reasons})")
        if self.lacks:
            notes.append(f"the recordings were read without {' and '.join(self.lacks)}, which this system lacks")
        return found, notes

    async def _scored(
        self, recording: Recording, file: str, log: ScoreLog, classify: Classifier, progress: Progress
    ) -> ScoredFile:
        with RecordingReader(recording.path, self.limits) as reader:
            scores = log.of(file)
            if recording.photo:
                position, jpeg = reader.photo()
                if not scores.done:
                    verdict = await classify(jpeg, recording.name)
                    log.frame(file, FrameScore(0.0, verdict.probability, seen_in(verdict)))
                    log.done(file)
                return ScoredFile(recording, log.of(file), position=position)
            last_s = scores.last_s or 0.0

            def on_time(time_s: float) -> None:
                nonlocal last_s
                progress.read_s += max(0.0, time_s - last_s)
                last_s = time_s
                self.on_progress(progress)

            scorer = RecordingScorer(reader, file, recording.name, log, classify, self.settings, on_time)
            await scorer.score()
            track = own_track(reader, recording)
            self.lacks = reader.lacks
            return ScoredFile(recording, log.of(file), track)

    def write(self, found: DriveMap, tiles: str | None = None) -> None:
        """Write the map into the folder: the best frames, tables, GeoJSON and the page. Raises ConfigError."""
        frames = {(at, number): jpeg for at, number, jpeg in self.frames(found)}
        for (at, number), jpeg in frames.items():
            with replace_file(self.out / frame_name(at, number)) as draft:
                draft.write_bytes(jpeg)
        write_map_files(self.out, found)
        write_text(self.out / PAGE, map_page(found, frames, tiles))

    def frames(self, found: DriveMap) -> Iterator[tuple[int, int, bytes]]:
        """Yield the number of each drive, that of each of its segments, and the segment's best frame as a JPEG."""
        best = [
            (at, number, segment.best_s, chapter_at(found.chapters[at], segment.best_s))
            for at, drive in enumerate(found.drives)
            for number, segment in enumerate(drive.segments)
        ]
        limits = self.limits.model_copy(update={"page_side": _FRAME_SIDE})
        for recording, group in groupby(best, key=lambda each: each[3].recording):
            try:
                with RecordingReader(recording.path, limits) as reader:
                    for at, number, best_s, chapter in group:
                        at_s = max(0.0, best_s - chapter.begin_s - 1e-3)
                        yield at, number, reader.photo()[1] if recording.photo else reader.frame(at_s)
            except MediaError:
                continue  # it was read to this frame before, and has been moved or damaged since

    def _check_spec(self) -> None:
        path = self.out / _SPEC
        if not path.exists():
            write_text(path, self.spec.model_dump_json(indent=1) + "\n")
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read ({error}); name another --out, or remove the folder") from None
        now = json.loads(self.spec.model_dump_json())
        if other := [name for name in now if not isinstance(before, dict) or now[name] != before.get(name)]:
            raise ConfigError(
                f"{self.out} holds a run with a different {' and '.join(other)}: use its own options, name another "
                "--out, or remove the folder"
            )


def own_track(reader: RecordingReader, recording: Recording) -> Track | None:
    """Return the track in a recording's data tracks; None if it has none that can be used."""
    for packets in reader.telemetry().values():
        try:
            if (track := telemetry_track(packets, recording.name)) is not None:
                return track
        except ConfigError:  # no satellites in sight all the time; a sidecar may know more
            continue
    return None


def other_track(recording: Recording, exiftool: bool = False) -> Track | None:
    """Return the track beside a recording, or else the one that ExifTool finds in it; None if there is none.

    Raises ConfigError if it cannot be used.
    """
    if recording.sidecar is not None:
        return read_track(recording.sidecar)
    return exiftool_track(recording.path, recording.name) if exiftool else None


async def map_drives(
    run: DriveRun, recordings: Sequence[Recording], log: ScoreLog, classify: Classifier, assembly: Assembly
) -> DriveMap:
    """Score recordings and return their map."""
    files, notes = await run.score(recordings, log, classify)
    assembly.notes[:0] = notes
    return assembly.assemble(files)
