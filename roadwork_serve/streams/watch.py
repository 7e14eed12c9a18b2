"""Watches one camera: its newest picture goes to the cascade, and events come out."""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from roadwork_serve.drives.scoring import Classifier, seen_in
from roadwork_serve.errors import (
    DeadlineExceeded,
    MediaError,
    NoOpinion,
    NotReady,
    RoadworkError,
    ServerUnreachable,
)
from roadwork_serve.streams.camera import Camera, CameraLost, Picture
from roadwork_serve.streams.events import Event, EventDetector

_WAIT_S = 1.0
_TELL_S = 60.0
_RETRY_S, _MOST_RETRY_S = 1.0, 30.0


@dataclass(slots=True)
class WatchCounts:
    """The counts of a watch."""

    pictures: int = 0
    #: Pictures on which the cascade gave no verdict.
    unanswered: int = 0
    #: Age of pictures at their verdict, from their arrival, in seconds: sum and largest.
    age_s: float = 0.0
    oldest_s: float = 0.0

    def add(self, age_s: float, answered: bool) -> None:
        """Count a picture."""
        self.pictures += 1
        self.unanswered += not answered
        self.age_s += age_s
        self.oldest_s = max(self.oldest_s, age_s)

    def __str__(self) -> str:
        mean_s = self.age_s / max(1, self.pictures)
        return (
            f"{self.pictures} pictures, {self.unanswered} without a verdict; "
            f"verdicts {mean_s:.2f} s after their picture on average, {self.oldest_s:.2f} s at most"
        )


@dataclass(slots=True)
class Watch:
    """The state of a watch.

    Args:
        opened: Opens the camera, blocking; raises CameraLost.
        classify: Asks the cascade.
        detector: Finds the events.
        emit: Called with each event; may raise OSError, and is then called again.
        say: Called with what a person should know: the camera is lost or back, the server fails or answers again.
        every_s: Seconds from picture to picture, at least.

    """

    opened: Callable[[], Camera]
    classify: Classifier
    detector: EventDetector
    emit: Callable[[Event], None]
    say: Callable[[str], None]
    every_s: float = 0.5
    counts: WatchCounts = field(default_factory=WatchCounts)
    _events: list[Event] = field(default_factory=list[Event], init=False)
    _problem: str = field(default="", init=False)
    _dropped: int = field(default=0, init=False)
    _told_s: float = field(default=-math.inf, init=False)

    async def run(self) -> None:
        """Watch until cancelled. A camera or server that is away is tried again after 1 s, and later 30 s."""
        retry_s, waiting = _RETRY_S, None
        while True:
            camera: Camera | None = None
            try:
                camera = await asyncio.to_thread(self.opened)
                while True:
                    began_s = time.monotonic()
                    picture = waiting or await asyncio.to_thread(camera.newest, _WAIT_S)
                    waiting = None
                    self._tell_of_dropped(camera.dropped)
                    self._emit()
                    if picture is None:
                        continue
                    if await self._judge(picture):
                        retry_s = _RETRY_S
                    else:
                        waiting = picture if camera.every_counts else None
                        await asyncio.sleep(retry_s)
                        retry_s = min(_MOST_RETRY_S, 2 * retry_s)
                    if not camera.every_counts:
                        await asyncio.sleep(max(0.0, began_s + self.every_s - time.monotonic()))
            except CameraLost as error:
                self._report(f"{self.detector.source}: {error}; trying again")
                await asyncio.sleep(retry_s)
                retry_s = min(_MOST_RETRY_S, 2 * retry_s)
            finally:
                if camera is not None:
                    await asyncio.shield(asyncio.to_thread(camera.close))

    async def _judge(self, picture: Picture) -> bool:
        """Classify a picture. Return False if the server cannot be asked now."""
        probability, seen, problem = None, (), ""
        try:
            verdict = await self.classify(picture.data, picture.name)
            probability, seen = verdict.probability, seen_in(verdict)
        except (MediaError, NoOpinion, DeadlineExceeded):
            pass  # of this picture alone
        except (ServerUnreachable, NotReady) as error:
            self._report(f"{error}; trying again")
            return False
        except RoadworkError as error:
            problem = f"no verdict: {error}"
        self._report(problem)
        self._events += self.detector.update(picture.at_s, probability, seen)
        self._emit()
        self.counts.add(max(0.0, time.time() - picture.at_s), probability is not None)
        return True

    def _emit(self) -> None:
        """Hand out the events. One that cannot be written is tried again."""
        while self._events:
            try:
                self.emit(self._events[0])
            except OSError as error:
                self._report(f"an event cannot be written: {error}; trying again")
                return
            self._events.pop(0)

    def _report(self, problem: str) -> None:
        """Tell of a problem once, and of its end."""
        if problem and problem != self._problem:
            self.say(problem)
        elif self._problem and not problem:
            self.say(f"{self.detector.source}: pictures and verdicts come again")
        self._problem = problem

    def _tell_of_dropped(self, dropped: int) -> None:
        if dropped > self._dropped and time.monotonic() - self._told_s > _TELL_S:
            count = dropped - self._dropped
            self.say(f"{count} pictures were left out: they are too large, or newer ones came faster than verdicts")
            self._dropped, self._told_s = dropped, time.monotonic()
