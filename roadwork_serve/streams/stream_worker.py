"""A confined process that decodes a stream for its parent, and gives it the newest frame whenever it asks.

The bytes of HTTP come from the parent through a pipe. A camera's RTSP is opened here, before the process is confined;
afterwards it keeps that connection and can get no other. Like `media.decode_worker` it imports neither pydantic nor
asyncio.
"""

import io
import os
import select
import signal
import socket
import time
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import av
import av.subtitles.codeccontext
import av.subtitles.stream
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from PIL import Image

from roadwork_serve.errors import BrokenMedia, MediaError, MediaTooLarge
from roadwork_serve.media.clip import OPTIONS, capped, upright
from roadwork_serve.media.clip_packets import demux_video
from roadwork_serve.media.confinement import confine
from roadwork_serve.media.header_limits import check_shape
from roadwork_serve.media.photo import encode_jpeg, fit
from roadwork_serve.media.worker_process import READY, limit_memory, receive, send

if TYPE_CHECKING:
    from roadwork_serve.profiles.media_limits import MediaLimits

_PIPE = 1  # the descriptor
_MEMORY_MIB = 512
_JPEG_QUALITY = 88
_FORMATS = "mpegts,mpjpeg,flv,matroska,webm,mov,mp4,rtsp"
_BEHIND_S = 1.0  # then only key frames are decoded until the newest is reached
_JUMP_S = 30.0  # ahead of the time that passed; a camera may send what it holds back at once
_WINDOW_S = 300.0  # for the delay that cannot be undercut; clocks differ by less in that time
_RTSP = {
    "rtsp_transport": "tcp",  # one connection, which is there before the confinement
    "timeout": "10000000",  # microseconds
    "protocol_whitelist": "rtsp,rtp,tcp,tls,crypto",
}


class _Pipe(io.RawIOBase):
    """The bytes from the parent."""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return os.read(_PIPE, size if size > 0 else 2**16)


class Lag:
    """The delay of a frame beyond the least one of recent frames: what has piled up on the way."""

    def __init__(self) -> None:
        self._best: deque[tuple[float, float]] = deque(maxlen=2)  # begin of the window, least delay in it
        self._last: tuple[float, float] | None = None

    def of(self, now_s: float, stamp_s: float) -> float:
        """Return the lag of a packet that comes now, by its time of decoding. A new start of that clock is no lag."""
        if self._last is not None:
            waited_s, step_s = now_s - self._last[0], stamp_s - self._last[1]
            if step_s < 0 or step_s > waited_s + _JUMP_S:
                self._best.clear()
        self._last = now_s, stamp_s
        delay = now_s - stamp_s
        if not self._best or now_s - self._best[-1][0] > _WINDOW_S:
            self._best.append((now_s, delay))
        begin, best = self._best[-1]
        self._best[-1] = (begin, min(best, delay))
        return delay - min(each for _, each in self._best)


def main() -> None:
    """Open the stream, and answer the parent until it closes the socket or the stream ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Image.preinit()
    with socket.socket(fileno=0) as parent:
        try:
            message = receive(parent)
            if message is not None:
                send(parent, _watched(parent, message[0]))
        except ConnectionError:
            return


def _watched(parent: socket.socket, task: dict[str, Any]) -> dict[str, Any]:
    """Decode the stream to its end, and return the last message."""
    limits = cast("MediaLimits", SimpleNamespace(**task["limits"]))
    options = OPTIONS | capped(limits.max_pixels)
    options |= {"fflags": "+genpts+nobuffer", "probesize": "1000000", "analyzeduration": "2000000"}
    try:
        limit_memory(_MEMORY_MIB, _MEMORY_MIB)
        if task["url"] is None:
            send(parent, {**READY, "lacks": confine()})
            source = _Pipe()
            opened = av.open(
                source, "r", options=options | {"format_whitelist": _FORMATS}, metadata_errors="replace",
                buffer_size=2**14,
            )  # fmt: skip
        else:
            opened = av.open(task["url"], "r", format="rtsp", options=options | _RTSP, metadata_errors="replace")
            send(parent, {**READY, "lacks": confine()})
        with opened as container:
            _decode(parent, cast("InputContainer", container), limits)
    except MediaError as error:
        return {"kind": "error", "error": type(error).__name__, "message": str(error)}
    except MemoryError:
        problem = "decoding the stream takes too much memory; send a smaller picture"
        return {"kind": "error", "error": MediaTooLarge.__name__, "message": problem}
    except (FFmpegError, ValueError, OverflowError, OSError) as error:
        if isinstance(error, ConnectionError) and not isinstance(error, FFmpegError):
            raise
        reason = f"the stream cannot be read ({type(error).__name__})"
        return {"kind": "error", "error": BrokenMedia.__name__, "message": reason}
    return {"kind": "end"}


def _decode(parent: socket.socket, container: InputContainer, limits: "MediaLimits") -> None:
    stream, packets = demux_video(container)
    codec = stream.codec_context
    check_shape((codec.width, codec.height), limits, "clip")
    codec.options = capped(2 * codec.width * codec.height or limits.max_pixels)
    codec.thread_type, codec.thread_count = "SLICE", 2  # threads of frames would add their number to the delay
    skip = "NONREF" if codec.name in ("h264", "hevc") else "DEFAULT"
    codec.skip_frame = skip
    lag, asked, behind_s = Lag(), False, 0.0
    requests = select.poll()
    requests.register(parent, select.POLLIN)
    tick = float(stream.time_base or 1 / 90_000)
    has_clock = container.format.name != "mpjpeg"  # whose times are made up
    for packet in packets:
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is not None and has_clock:
            behind_s = lag.of(time.monotonic(), stamp * tick)
        if behind_s > _BEHIND_S:
            codec.skip_frame = "NONKEY"
        elif behind_s <= _BEHIND_S / 2 and packet.is_keyframe:  # others refer to frames that were left out
            codec.skip_frame = skip
        try:
            pictures = codec.decode(packet)
        except MemoryError:
            raise
        except FFmpegError:  # one damaged packet; the next may be valid
            pictures = []
        if not asked and requests.poll(0):
            if receive(parent) is None:
                return
            asked = True
        if pictures and asked:
            asked = False
            send(parent, {"kind": "frame", "lag_s": behind_s}, _jpeg(pictures[-1], limits))


def _jpeg(picture: VideoFrame, limits: "MediaLimits") -> bytes:
    check_shape((picture.width, picture.height), limits, "clip")
    image, _ = upright(picture, limits.page_side)
    return encode_jpeg(image.resize(fit(image.size, limits.page_side)), _JPEG_QUALITY)


if __name__ == "__main__":
    main()
