"""Scores the frames of recordings with a cascade: a frame each step to begin with, then short clips where in doubt."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from roadwork_serve.drives.recording_reader import Frame, RecordingReader
from roadwork_serve.drives.score_log import ScoreLog
from roadwork_serve.drives.segments import FrameScore, doubtful_times
from roadwork_serve.drives.smoothing import SmoothingModel
from roadwork_serve.errors import DeadlineExceeded, MediaError, NoOpinion
from roadwork_serve.schema import Verdict

T = TypeVar("T")
#: Classifies the bytes of a photo or clip with a name.
Classifier = Callable[[bytes, str], Awaitable[Verdict]]
_CLIP_S = 2.0
_MISSING_S = 3.0  # a recording that ends earlier than it declares is cut
_SHOWN = 60  # letters of a sign


@dataclass(frozen=True, slots=True)
class ScoringSettings:
    """Settings for scoring a recording."""

    #: Seconds from frame to frame.
    step_s: float = 0.5
    #: Frames in flight; each takes some hundred kilobytes.
    concurrent: int = 8
    #: Moments with a posterior between these are sent as clips.
    doubt: tuple[float, float] = (0.15, 0.85)
    model: SmoothingModel = field(default_factory=SmoothingModel)


class RecordingScorer:
    """Scores one recording, and writes to the log what it finds, in the order of time.

    Args:
        reader: The recording.
        file: Its identity in the log.
        name: Its name, for the server's journal.
        log: The scores so far. What it has is not scored again.
        classify: Asks the cascade.
        settings: See `ScoringSettings`.
        on_time: Called with the time of each frame in seconds.

    """

    def __init__(
        self,
        reader: RecordingReader,
        file: str,
        name: str,
        log: ScoreLog,
        classify: Classifier,
        settings: ScoringSettings,
        on_time: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._reader, self._file, self._name, self._log = reader, file, name, log
        self._classify, self._settings, self._on_time = classify, settings, on_time

    async def score(self) -> None:
        """Score what is not in the log yet.

        Raises MediaError if the recording cannot be read, and the errors of a server that cannot be reached; run it
        again to continue.
        """
        known = self._log.of(self._file)
        if known.seconds is None:
            await self._score_frames()
        if not known.done:
            await self._score_clips()
            self._log.done(self._file)

    async def _score_frames(self) -> None:
        known, step_s = self._log.of(self._file), self._settings.step_s
        # Resumed in the middle of a step, the next frame is the first one behind it.
        from_s = 0.0 if known.last_s is None else (math.floor(known.last_s / step_s + 1e-6) + 1) * step_s
        frames = self._reader.frames(from_s, step_s)
        waiting: deque[asyncio.Task[tuple[FrameScore, str | None]]] = deque()
        try:
            while (frame := await asyncio.to_thread(_next, frames)) is not None:
                if len(waiting) >= self._settings.concurrent:
                    self._log.frame(self._file, *await waiting.popleft())
                waiting.append(asyncio.create_task(self._scored_frame(frame)))
                self._on_time(frame.time_s)
            while waiting:
                self._log.frame(self._file, *await waiting.popleft())
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        last_s = 0.0 if known.last_s is None else known.last_s
        about = self._reader.about
        complete = self._reader.complete and last_s >= (about.seconds or 0.0) - _MISSING_S
        self._log.read(self._file, max(about.seconds or 0.0, last_s) if complete else last_s, about.created, complete)

    async def _scored_frame(self, frame: Frame) -> tuple[FrameScore, str | None]:
        if frame.jpeg is None:
            return FrameScore(frame.time_s, None), None
        return await self._scored(frame.jpeg, frame.time_s, f"{self._name} {frame.time_s:.1f}s.jpg")

    async def _score_clips(self) -> None:
        """Score a clip around each moment in doubt."""
        known = self._log.of(self._file)
        low, high = self._settings.doubt
        for time_s in doubtful_times(known.frames, self._settings.model, low, high):
            if time_s in known.clip_times:
                continue
            begin_s = max(0.0, time_s - _CLIP_S / 2)
            try:
                clip = await asyncio.to_thread(self._reader.clip, begin_s, begin_s + _CLIP_S)
            except MediaError as error:
                self._log.clip(self._file, FrameScore(time_s, None), error.slug)
                continue
            self._log.clip(self._file, *await self._scored(clip, time_s, f"{self._name} {time_s:.1f}s.mp4"))

    async def _scored(self, media: bytes, time_s: float, name: str) -> tuple[FrameScore, str | None]:
        """Return the score of a frame or clip, or the problem that only this one has."""
        try:
            verdict = await self._classify(media, name)
        except (MediaError, NoOpinion, DeadlineExceeded) as error:
            return FrameScore(time_s, None), error.slug
        return FrameScore(time_s, verdict.probability, seen_in(verdict)), None


def seen_in(verdict: Verdict) -> tuple[str, ...]:
    """Return what the stages recognized: kinds of regions, and the text of signs about road work."""
    found: dict[str, None] = {}
    for report in verdict.stages:
        found |= dict.fromkeys(region.kind for region in report.evidence.regions)
        found |= dict.fromkeys(
            f"sign: {line.text[:_SHOWN]}"
            for line in report.evidence.text_lines
            if line.meaning not in (None, "neutral")
        )
    return tuple(found)


def _next(frames: Iterator[Frame]) -> Frame | None:
    return next(frames, None)
