"""The scores of frames so far, in a file that is only ever appended to, so that a run can be resumed."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from roadwork_serve.drives.segments import FrameScore
from roadwork_serve.errors import ConfigError

_SYNC_S = 5.0


class _Line(BaseModel):
    """A line of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["frame", "clip", "read", "done"]
    file: str
    time_s: float = 0.0
    probability: float | None = None
    seen: tuple[str, ...] = ()
    problem: str | None = None
    seconds: float = 0.0
    created: str = ""
    complete: bool = True


@dataclass(slots=True)
class FileScores:
    """The state of one recording in the log."""

    frames: list[FrameScore] = field(default_factory=list)
    clips: list[FrameScore] = field(default_factory=list)
    #: Times of frames and clips without a score, each with the reason.
    problems: list[tuple[float, str]] = field(default_factory=list)
    #: Time of the last frame that is dealt with; None before the first.
    last_s: float | None = None
    #: Middles of the clips that are dealt with.
    clip_times: set[float] = field(default_factory=set)
    #: Length in seconds, once all frames are scored; None before.
    seconds: float | None = None
    #: The start that the recording names.
    created: str = ""
    #: False if the end of the recording is missing.
    complete: bool = True
    #: True once its clips are scored too.
    done: bool = False

    def add(self, line: _Line) -> None:
        """Add what a line reports."""
        match line.kind:
            case "frame":
                self.last_s = line.time_s
            case "clip":
                self.clip_times.add(line.time_s)
            case "read":
                self.seconds, self.created, self.complete = line.seconds, line.created, line.complete
            case "done":
                self.done = True
        if line.kind in ("frame", "clip"):
            if line.problem is not None:
                self.problems.append((line.time_s, line.problem))
            else:
                score = FrameScore(line.time_s, line.probability, line.seen)
                (self.frames if line.kind == "frame" else self.clips).append(score)

    def scores(self) -> list[FrameScore]:
        """Return the scores of frames and clips in the order of their times."""
        return sorted([*self.frames, *self.clips], key=lambda each: each.time_s)


class ScoreLog:
    """The file. Use it with `with`; each line is written at once, so that a killed run loses none.

    Raises ConfigError if an earlier file is not a log, or the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, FileScores] = {}
        self._synced_s = time.monotonic()
        try:
            kept = self._load()
            self._file = path.open("ab", buffering=0)
            self._file.truncate(kept)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror or error}; name another --out") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def of(self, file: str) -> FileScores:
        """Return what is known about a file."""
        return self._files.setdefault(file, FileScores())

    def frame(self, file: str, score: FrameScore, problem: str | None = None) -> None:
        """Add the score of a frame, or why it has none."""
        self._add(kind="frame", file=file, **_content(score), problem=problem)

    def clip(self, file: str, score: FrameScore, problem: str | None = None) -> None:
        """Add the score of a clip, or why it has none."""
        self._add(kind="clip", file=file, **_content(score), problem=problem)

    def read(self, file: str, seconds: float, created: str, complete: bool) -> None:
        """Record that all frames of a file are scored."""
        self._add(kind="read", file=file, seconds=seconds, created=created, complete=complete)

    def done(self, file: str) -> None:
        """Record that nothing of a file is left to score."""
        self._add(kind="done", file=file)

    def _add(self, **content: Any) -> None:
        line = _Line(**content)
        try:
            self._file.write(json.dumps(line.model_dump(exclude_defaults=True) | {"kind": line.kind}).encode() + b"\n")
            if line.kind in ("read", "done") or time.monotonic() - self._synced_s > _SYNC_S:
                os.fsync(self._file.fileno())
                self._synced_s = time.monotonic()
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror or error}") from None
        self.of(line.file).add(line)

    def _load(self) -> int:
        """Read the lines of an earlier run, and return how many bytes of them are whole."""
        kept = 0
        if not self._path.exists():
            return kept
        with self._path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.endswith(b"\n"):
                    break  # it was being written when the run was killed
                try:
                    line = _Line.model_validate_json(raw)
                except ValidationError:
                    raise ConfigError(
                        f"{self._path}, line {number}, is not of a score log; name another --out, or remove the file"
                    ) from None
                self.of(line.file).add(line)
                kept += len(raw)
        return kept


def _content(score: FrameScore) -> Mapping[str, Any]:
    return {"time_s": score.time_s, "probability": score.probability, "seen": score.seen}
