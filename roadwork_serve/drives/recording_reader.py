"""Reads a recording of any length through a confined process, at bounded memory.

The file is open here alone. The process asks for ranges of it and sends back frames, clips and telemetry, so that a
malicious recording harms nothing; see `recording_worker`.
"""

import os
import socket
import subprocess
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from roadwork_serve.drives.telemetry import DataPacket
from roadwork_serve.errors import BrokenMedia, MediaError, RoadworkError
from roadwork_serve.local_files import read_problem
from roadwork_serve.media.decode_response import parse_error
from roadwork_serve.media.worker_process import READY, receive, send, spawn
from roadwork_serve.profiles.media_limits import MediaLimits

_WORKER = "roadwork_serve.drives.recording_worker"
_START_S, _SILENCE_S = 60.0, 60.0
_MAX_BODY = 32 * 2**20  # bytes of a frame or clip
_MAX_RANGE = 2**20
_MAX_SECONDS = 30 * 24 * 3600.0
_CRASHED = "the recording crashes the decoder; convert it, for example with `ffmpeg -i FILE -c:v libx264 out.mp4`"


class About(NamedTuple):
    """The declarations of a recording about itself."""

    #: Length; None if it is unknown.
    seconds: float | None
    #: Time at which the recording began, as the camera wrote it; often local time that claims to be UTC.
    created: str


class Frame(NamedTuple):
    """A frame of a recording."""

    #: Seconds since the first frame.
    time_s: float
    #: None if it looks like the last frame that does not.
    jpeg: bytes | None


class PhotoPosition(NamedTuple):
    """The position and time of a photo; each is None if the photo does not have it."""

    latitude: float | None
    longitude: float | None
    accuracy_m: float | None
    utc_s: float | None
    #: By the camera's clock.
    local_s: float | None


class RecordingReader:
    """Reads one file. Use it with `with`: at the end its process is ended and the file closed.

    All methods block, and raise MediaError if the file is damaged or not supported, and RoadworkError if it cannot be
    opened.
    """

    def __init__(self, path: Path, limits: MediaLimits, worker: str = _WORKER) -> None:
        self._path, self._limits, self._worker = path, limits, worker
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise BrokenMedia(f"{path} cannot be read: {read_problem(path, error)}") from None
        self.size = os.fstat(self._file).st_size
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        #: Protections that the system lacks, once the process runs.
        self.lacks: tuple[str, ...] = ()
        #: What the recording declares, once its first frame is read.
        self.about = About(None, "")
        #: False once the end of the recording turned out to be missing.
        self.complete = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        os.close(self._file)

    def frames(self, from_s: float, step_s: float) -> Iterator[Frame]:
        """Yield the first frame of each step of time, from a time on."""
        last = from_s - step_s
        with closing(self._run({"task": "frames", "from_s": from_s, "step_s": step_s})) as messages:
            for header, body in messages:
                match header["kind"]:
                    case "about":
                        seconds = header["seconds"]
                        known = isinstance(seconds, float) and 0 < seconds < _MAX_SECONDS
                        self.about = About(seconds if known else None, str(header["created"])[:40])
                    case "frame":
                        time_s = float(header["time_s"])
                        if not last <= time_s < _MAX_SECONDS:
                            raise BrokenMedia(_CRASHED)
                        last = time_s
                        yield Frame(time_s, None if header["same"] is True else body)
                    case "end":
                        self.complete = header["complete"] is True
                        if self.about.seconds is not None:  # a jump of the clock is no length
                            seconds = max(last, self.about.seconds - max(0.0, float(header["jumped_s"])))
                            self.about = self.about._replace(seconds=seconds)
                    case _:
                        raise BrokenMedia(_CRASHED)

    def telemetry(self) -> Mapping[int, list[DataPacket]]:
        """Return the packets of each data track, by the number of the track."""
        tracks: dict[int, list[DataPacket]] = {}
        with closing(self._run({"task": "data"})) as messages:
            for header, body in messages:
                if header["kind"] == "data":
                    packet = DataPacket(float(header["time_s"]), float(header["seconds"]), body)
                    tracks.setdefault(int(header["track"]), []).append(packet)
        return tracks

    def clip(self, begin_s: float, end_s: float) -> bytes:
        """Return the frames between two times as a small MP4."""
        return self._only({"task": "clip", "begin_s": begin_s, "end_s": end_s}, "clip")[1]

    def frame(self, at_s: float) -> bytes:
        """Return the frame at a time as a JPEG."""
        return self._only({"task": "frame", "at_s": at_s}, "jpeg")[1]

    def photo(self) -> tuple[PhotoPosition, bytes]:
        """Return the position of a photo, and the photo as a new JPEG."""
        header, body = self._only({"task": "photo"}, "photo")
        numbers = (header.get(name) for name in PhotoPosition._fields)
        return PhotoPosition(*(float(each) if isinstance(each, int | float) else None for each in numbers)), body

    def _only(self, task: dict[str, Any], kind: str) -> tuple[dict[str, Any], bytes]:
        with closing(self._run(task)) as messages:
            for header, body in messages:
                if header["kind"] == kind:
                    return header, body
        raise BrokenMedia(_CRASHED)

    def _run(self, task: dict[str, Any]) -> Generator[tuple[dict[str, Any], bytes]]:
        """Yield the messages of a task, the last one included. The process is replaced if it does not complete."""
        peer = self._started()
        completed = False
        try:
            send(peer, task | {"size": self.size, "limits": self._limits.model_dump()})
            while not completed:
                message = receive(peer, _MAX_BODY)
                if message is None:
                    raise ConnectionResetError("the process ended")
                header, body = message
                if header["kind"] == "need":
                    send(peer, {}, self._range(header["at"], header["size"]))
                    continue
                if error := parse_error(header):
                    completed = True
                    raise error
                completed = header["kind"] not in ("about", "frame", "data")
                yield header, body
        except MediaError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:  # it died, was silent, or sent nonsense
            raise BrokenMedia(_CRASHED) from error
        finally:
            if not completed:
                self._end()

    def _range(self, at: object, size: object) -> bytes:
        if not (isinstance(at, int) and isinstance(size, int) and 0 <= at <= self.size and 0 < size <= _MAX_RANGE):
            raise ValueError("a range outside the file")
        return os.pread(self._file, size, at)

    def _started(self) -> socket.socket:
        if self._socket is not None:
            return self._socket
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = spawn(self._worker, theirs)
        self._socket = ours
        try:
            ours.settimeout(_START_S)
            ready = receive(ours, 0)
            if ready is None or ready[0].get("kind") != READY["kind"]:
                raise ValueError("it does not report ready")
            self.lacks = tuple(map(str, ready[0]["lacks"]))
            ours.settimeout(_SILENCE_S)
        except (OSError, ValueError, KeyError) as error:
            self._end()
            raise RoadworkError(f"the reading process does not start: {error!r}") from None
        return ours

    def _end(self) -> None:
        """End the process, if one runs."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
