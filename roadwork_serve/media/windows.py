"""Windows of a long clip: parts of it as clips of their own, cut before key frames, without decoding."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import SEEK_END, BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

import av
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from roadwork_serve.clip_formats import format_of
from roadwork_serve.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from roadwork_serve.media.clip_packets import demux_video
from roadwork_serve.media.container import check_container
from roadwork_serve.media.sniff import sniff

if TYPE_CHECKING:
    from roadwork_serve.profiles.media_limits import MediaLimits

_HEAD = 2**16  # bytes that tell the format
_JUMP_S = 5.0  # a longer gap, or one backwards, is a jump of the clock
_BACK_S = 0.5  # frames are reordered by less
_USUAL_S = 1 / 25
_CONTAINER_BYTES, _PACKET_BYTES = 64 * 2**10, 64  # that a window adds to its packets, at most
MAX_WINDOWS = 2000


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a clip."""

    #: Seconds from the start of the clip.
    start_s: float
    end_s: float
    #: A clip with the video of this part alone.
    data: bytes
    #: False for the last one if the rest of the clip is missing.
    complete: bool = True


class _Beginning:
    """The bytes of a file up to a position."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self._file, self._end = file, end
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, max(0, self._end - self.tell())))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(self._end + offset) if whence == SEEK_END else self._file.seek(offset, whence)


@dataclass(slots=True)
class _Part:
    """Consecutive packets, from a key frame on."""

    start_s: float
    end_s: float = 0.0
    size: int = 0
    complete: bool = True
    packets: list[Packet] = field(default_factory=list[Packet])

    def fits(self, other: "_Part", limits: "MediaLimits") -> bool:
        """Return whether a window of both is within the limits of a clip."""
        count = len(self.packets) + len(other.packets)
        overhead = _CONTAINER_BYTES + count * _PACKET_BYTES
        return (
            other.end_s - self.start_s <= limits.max_seconds
            and self.size + other.size + overhead <= limits.max_bytes
            and count <= limits.max_clip_frames
        )

    def add(self, other: "_Part") -> None:
        self.packets += other.packets
        self.size, self.end_s, self.complete = self.size + other.size, other.end_s, other.complete

    def window(self, stream: VideoStream, complete: bool = True) -> Window:
        return Window(self.start_s, self.end_s, _mux(self, stream), complete and self.complete)


def read_windows(file: BinaryIO, data: Any, limits: "MediaLimits", max_seconds: float) -> Iterator[Window]:
    """Yield the windows of a clip in order, each as long as the limits of one clip permit.

    Args:
        file: The clip, at its start.
        data: The same bytes, such as a memory map.
        limits: Limits on a window.
        max_seconds: Limit on the whole clip.

    Raises:
        UnsupportedMedia: It is no clip of a supported format and codec.
        MediaTooLarge: It is too long, or has too few key frames to be cut.
        BrokenMedia: It is damaged.
    """
    mime = sniff(data[:_HEAD])
    if mime.startswith("image/"):
        raise UnsupportedMedia("the file is a photo; send it to /v1/classify")
    kind = format_of(mime)
    try:
        extent = check_container(data, kind)
        source = file if extent.complete else _Beginning(file, extent.end)
        options = {"fflags": "+genpts"}
        with av.open(source, "r", format=kind.demuxer, options=options, metadata_errors="replace") as clip:
            yield from _windows(*demux_video(clip), limits, max_seconds, extent.complete)
    except MediaError:
        raise
    except MemoryError:
        raise MediaTooLarge("cutting the clip takes too much memory; send it in parts") from None
    except Exception as error:
        raise BrokenMedia("the clip is damaged or truncated; send the whole file") from error


def _windows(
    stream: VideoStream, packets: Iterator[Packet], limits: "MediaLimits", max_seconds: float, complete: bool
) -> Iterator[Window]:
    count, window = 0, _Part(0.0)
    for part in _groups(stream, packets, limits):
        if part.end_s > max_seconds:
            raise MediaTooLarge(
                f"the clip is longer than {max_seconds:,g} seconds (jobs.max_seconds); send it in parts"
            )
        if window.packets and not window.fits(part, limits):
            yield window.window(stream)
            window = _Part(part.start_s)
            if (count := count + 1) >= MAX_WINDOWS:
                raise MediaTooLarge(f"the clip has more than {MAX_WINDOWS:,} parts; send it in parts")
        window.add(part)
    if not window.packets:
        raise BrokenMedia("the clip has no frames; send one with at least one frame")
    yield window.window(stream, complete)


def _groups(stream: VideoStream, packets: Iterator[Packet], limits: "MediaLimits") -> Iterator[_Part]:
    """Yield groups of pictures. A damaged end is left out."""
    second = float(stream.time_base or 1)
    time_s, group = 0.0, _Part(0.0)
    last_s: float | None = None
    try:
        for packet in packets:
            if not packet.size:
                continue
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None:
                if last_s is not None:
                    step = stamp * second - last_s
                    time_s = max(0.0, time_s + (step if -_BACK_S <= step <= _JUMP_S else _USUAL_S))
                last_s = stamp * second
            if packet.is_keyframe and group.packets:
                group.end_s = max(group.end_s, time_s)
                yield group
                group = _Part(time_s)
            group.packets.append(packet)
            group.size += packet.size
            group.end_s = max(group.end_s, time_s)
            if group.size > limits.max_bytes or len(group.packets) > limits.max_clip_frames:
                raise MediaTooLarge(
                    f"the clip has no key frame within {limits.max_bytes:,} bytes or {limits.max_clip_frames:,} "
                    "frames, so it cannot be cut; encode it with more of them, as `ffmpeg -i CLIP -g 250 out.mp4` does"
                )
    except MemoryError:
        raise
    except FFmpegError:
        if not group.packets:
            raise
        group.complete = False
    if len(group.packets) > 1 and group.packets[-1].is_corrupt:
        group.packets.pop()
        group.complete = False
    if group.packets:
        yield group


def _mux(window: _Part, stream: VideoStream) -> bytes:
    """Return a clip of these packets."""
    file = BytesIO()
    with av.open(file, "w", format="matroska") as output:
        copy = output.add_stream_from_template(stream)
        stamps = [each.dts for each in window.packets if each.dts is not None]
        first, last = min(stamps, default=0), -1
        for packet in window.packets:
            last = max(last + 1, last + 1 if packet.dts is None else packet.dts - first)
            packet.pts = last if packet.pts is None else max(packet.pts - first, last)
            packet.dts = last
            packet.stream = copy
            output.mux(packet)
    return file.getvalue()
