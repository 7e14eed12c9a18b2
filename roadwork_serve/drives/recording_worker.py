"""A confined process that reads one recording of any length for its parent, which gives it the bytes it asks for.

The process has no access to the file. It sends `need` messages for ranges of it, so that a container with its index at
the end can be read, and only the part of the file that is being decoded is in memory. Everything that it returns is
made anew: JPEGs, clips, numbers. Like `media.decode_worker` it imports neither pydantic nor asyncio.
"""

import io
import signal
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

# Pillow and PyAV import these when a file needs them, which a confined process cannot.
import av
import av.subtitles.codeccontext
import av.subtitles.stream
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Discard
from av.video.frame import VideoFrame
from PIL import Image, ImageColor, TiffImagePlugin  # noqa: F401

from roadwork_serve.clip_formats import ClipFormat, clip_format
from roadwork_serve.drives.photo_exif import exif_position
from roadwork_serve.drives.recording_end import find_extent
from roadwork_serve.drives.recording_sampler import SampledFrame, Sampler
from roadwork_serve.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from roadwork_serve.media import page, sniff
from roadwork_serve.media.clip import OPTIONS, capped, upright
from roadwork_serve.media.confinement import confine
from roadwork_serve.media.container import Extent
from roadwork_serve.media.photo import encode_jpeg, fit
from roadwork_serve.media.worker_process import READY, limit_memory, receive, send

if TYPE_CHECKING:
    from roadwork_serve.profiles.media_limits import MediaLimits

_BLOCK = 256 * 2**10  # bytes that are asked for at a time
_HEAD = 4096  # bytes by which the format is told
_MEMORY_MIB = 768  # beyond the libraries: an 8K recording has frames of 50 MiB
_JPEG_QUALITY = 88
_MAX_DATA = 48 * 2**20  # bytes of telemetry in all; a camera writes 1 to 10 kB a second
_MAX_PACKET = 2**20
_CLIP_SIDE, _CLIP_FPS = 640, 8


class ParentFile(io.RawIOBase):
    """The file, whose bytes the parent sends on request."""

    def __init__(self, parent: socket.socket, size: int) -> None:
        self._parent, self.size, self._at = parent, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position, and return it."""
        self._at = max(0, offset + (0, self._at, self.size)[whence])
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most a block of them; none at the end."""
        wanted = min(size if size >= 0 else _BLOCK, _BLOCK, max(0, self.size - self._at))
        if not wanted:
            return b""
        send(self._parent, {"kind": "need", "at": self._at, "size": wanted})
        answer = receive(self._parent)
        if answer is None:
            raise ConnectionResetError("the parent closed the socket")
        self._at += len(answer[1])
        return answer[1]

    def read_at(self, at: int, size: int) -> bytes:
        """Return bytes from a position on, and go there."""
        self._at = at
        return self.read(size)


def main() -> None:
    """Do the parent's tasks until it closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Image.preinit()
    with socket.socket(fileno=0) as parent:
        try:
            send(parent, {**READY, "lacks": confine()})
            limit_memory(_MEMORY_MIB, _MEMORY_MIB)
            extents: dict[int, Extent] = {}
            while (message := receive(parent)) is not None:
                send(parent, *_done(parent, message[0], extents))
        except ConnectionError:
            return


def _done(parent: socket.socket, task: dict[str, Any], extents: dict[int, Extent]) -> tuple[dict[str, Any], bytes]:
    """Do a task, whose parts are sent as they are made, and return its last message.

    extents: those found by earlier tasks, by size of the file.
    """
    limits = cast("MediaLimits", SimpleNamespace(**task["limits"]))
    file = ParentFile(parent, task["size"])
    try:
        if task["task"] == "photo":
            return _photo(file, limits)
        kind = _format(file)
        extent = extents[file.size] = extents.get(file.size) or find_extent(file.read_at, kind, file.size)
        file.seek(0)
        file.size = extent.end
        options = OPTIONS | capped(limits.max_pixels)
        with av.open(
            file, "r", format=kind.demuxer, options=options, metadata_errors="replace", buffer_size=_BLOCK
        ) as container:
            match task["task"]:
                case "frames":
                    about, body = _frames(parent, container, kind, limits, task)
                    return about | {"complete": about["complete"] and extent.complete}, body
                case "data":
                    return _data(parent, container)
                case "clip":
                    return {"kind": "clip"}, _clip(container, kind, limits, task["begin_s"], task["end_s"])
                case "frame":
                    return {"kind": "jpeg"}, _frame(container, kind, limits, task["at_s"])
                case other:
                    raise ValueError(other)
    except MediaError as error:
        return {"kind": "error", "error": type(error).__name__, "message": str(error)}, b""
    except MemoryError:
        problem = "decoding the recording takes too much memory; convert it to a smaller size"
        return {"kind": "error", "error": MediaTooLarge.__name__, "message": problem}, b""
    except (FFmpegError, ValueError, OverflowError, OSError) as error:
        if isinstance(error, ConnectionError):
            raise
        problem = "the recording is damaged, or was not finished; mend it with untrunc and a good file of the camera"
        return {"kind": "error", "error": BrokenMedia.__name__, "message": problem}, b""


def _format(file: ParentFile) -> ClipFormat:
    head = file.read(_HEAD)
    file.seek(0)
    kind = clip_format(head)
    if kind is None:
        sniff(head)  # raises the error that names the format
        raise UnsupportedMedia("the file is a photo; a recording is needed here")
    return kind


def _frames(
    parent: socket.socket, container: InputContainer, kind: ClipFormat, limits: "MediaLimits", task: dict[str, Any]
) -> tuple[dict[str, Any], bytes]:
    """Send a frame for each step, from `from_s` on: a JPEG, or that it looks like the one before."""
    sampler = Sampler(container, kind, limits)
    send(parent, {"kind": "about", "seconds": sampler.seconds, "created": container.metadata.get("creation_time", "")})
    for each in sampler.frames(task["from_s"], task["step_s"]):
        jpeg = b"" if each.same else _jpeg(each.picture, limits)
        send(parent, {"kind": "frame", "time_s": each.time_s, "same": each.same}, jpeg)
    return {"kind": "end", "complete": sampler.complete, "jumped_s": sampler.jumped_s}, b""


def _data(parent: socket.socket, container: InputContainer) -> tuple[dict[str, Any], bytes]:
    """Send the packets of the data tracks."""
    wanted = {each.index for each in container.streams.data}
    origin = float(min((each.start_time or 0) * each.time_base for each in container.streams.video if each.time_base))
    for each in container.streams:
        if each.index not in wanted:
            each.discard = Discard.all
    left = _MAX_DATA
    packets = container.demux(*container.streams.data) if wanted else iter(())
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError:  # the rest is missing
            break
        if packet is None:
            break
        if not 0 < packet.size <= _MAX_PACKET or packet.pts is None or packet.time_base is None:
            continue
        left -= packet.size
        if left < 0:
            break
        time_s = float(packet.pts * packet.time_base) - origin
        seconds = float((packet.duration or 0) * packet.time_base)
        about = {"kind": "data", "track": packet.stream_index, "time_s": time_s, "seconds": seconds}
        send(parent, about, bytes(packet))
    return {"kind": "end", "complete": True}, b""


def _clip(container: InputContainer, kind: ClipFormat, limits: "MediaLimits", begin_s: float, end_s: float) -> bytes:
    """Return the frames between two times as a new MP4, eight a second."""
    pictures = [each.picture for each in _between(container, kind, limits, begin_s, end_s)]
    if not pictures:
        raise BrokenMedia("the recording has no frames at this time")
    images = [upright(each, _CLIP_SIDE)[0] for each in pictures]
    size = tuple(side // 2 * 2 for side in images[0].size)
    into = io.BytesIO()
    with av.open(into, "w", format="mp4") as clip:
        stream = clip.add_stream("libx264", rate=_CLIP_FPS, options={"crf": "23", "preset": "veryfast"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for image in images:
            pixels = np.asarray(image)[: size[1], : size[0]]
            if pixels.shape[:2] == (size[1], size[0]):
                clip.mux(stream.encode(VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        clip.mux(stream.encode())
    return into.getvalue()


def _between(
    container: InputContainer, kind: ClipFormat, limits: "MediaLimits", begin_s: float, end_s: float
) -> Iterator[SampledFrame]:
    sampler = Sampler(container, kind, limits, skip_duplicates=False)
    for each in sampler.frames(begin_s, 1 / _CLIP_FPS):
        if each.time_s > end_s:
            return
        yield each


def _frame(container: InputContainer, kind: ClipFormat, limits: "MediaLimits", at_s: float) -> bytes:
    """Return the frame at a time as a JPEG."""
    sampler = Sampler(container, kind, limits, skip_duplicates=False)
    for each in sampler.frames(at_s, 1.0):
        return _jpeg(each.picture, limits)
    raise BrokenMedia("the recording has no frame at this time")


def _jpeg(picture: VideoFrame, limits: "MediaLimits") -> bytes:
    image, _ = upright(picture, limits.page_side)
    return encode_jpeg(image.resize(fit(image.size, limits.page_side)), _JPEG_QUALITY)


def _photo(file: ParentFile, limits: "MediaLimits") -> tuple[dict[str, Any], bytes]:
    """Return a photo as a new JPEG, with the position and time in its EXIF."""
    parts = bytearray()
    while part := file.read():
        parts += part
        if len(parts) > limits.max_bytes:
            raise MediaTooLarge(f"the photo has more than {limits.max_bytes:,} bytes (max_bytes)")
    data = bytes(parts)
    return {"kind": "photo"} | exif_position(data, sniff(data)), page(data, limits)


if __name__ == "__main__":
    main()
