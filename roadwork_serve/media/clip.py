"""Clips: evenly spaced frames with their timestamps, at a bounded cost.

All packets are demuxed first, which is cheap and gives the true count and times of the frames, whatever the container
declares. Then only the groups of pictures with a selected frame are decoded.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Literal, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from roadwork_serve.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from roadwork_serve.media.container import check_mp4, check_webm
from roadwork_serve.media.header_limits import check_shape
from roadwork_serve.media.photo import fit, squash

if TYPE_CHECKING:
    from roadwork_serve.profiles.profile import MediaLimits

_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg", "h263")
_MAX_DECODED_PIXELS = 2_000_000_000  # of all frames: 35 s of 1080p in one group of pictures, 5 to 10 s of a CPU core
_THREADS = 4
_JPEG_QUALITY = 88
_OUT_OF_MEMORY = "decoding the clip takes too much memory; send it at a smaller size"
_TRANSPOSE = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A sampled frame."""

    #: Time since the first frame in seconds.
    timestamp_s: float
    jpeg: bytes
    #: uint8 RGB [side, side, 3].
    thumb: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A clip and its sampled frames."""

    mime: str
    #: Width of the upright image in pixels.
    width: int
    #: Height of the upright image in pixels.
    height: int
    #: Length in seconds.
    seconds: float
    #: Sampled frames in order.
    frames: tuple[Frame, ...]

    @property
    def kind(self) -> Literal["clip"]:
        """The media type."""
        return "clip"

    @property
    def images(self) -> tuple[bytes, ...]:
        """A JPEG of each sampled frame."""
        return tuple(frame.jpeg for frame in self.frames)

    @property
    def thumbs(self) -> NDArray[np.uint8]:
        """uint8 RGB of shape [frames, side, side, 3]."""
        return np.stack([frame.thumb for frame in self.frames])

    @property
    def timestamps_s(self) -> tuple[float, ...]:
        """Time of each image from the start of the clip, in seconds; 0 for a photo."""
        return tuple(frame.timestamp_s for frame in self.frames)


def read_clip(data: bytes, mime: str, limits: "MediaLimits") -> Clip:
    """Decode `limits.frames` frames from the middles of as many equal parts of a clip of a known type.

    A shorter clip gives all its frames. If decoding would take too long, key frames replace the later frames; the
    timestamps are those of the returned frames.

    Raises:
        MediaTooLarge: A limit is exceeded.
        UnsupportedMedia: The codec is not supported.
        BrokenMedia: The file is damaged.
    """
    webm = mime == "video/webm"
    try:
        check_webm(data) if webm else check_mp4(data)
        options = {
            "codec_whitelist": ",".join(_CODECS),
            **_cap(limits.max_pixels),
        }  # opening already decodes some packets
        with av.open(
            BytesIO(data), "r", format="matroska" if webm else "mov", options=options, metadata_errors="replace"
        ) as container:
            return _read(container, data, mime, limits)
    except MediaError:
        raise
    except MemoryError:
        raise MediaTooLarge(_OUT_OF_MEMORY) from None
    except Exception as error:
        raise BrokenMedia("the clip is damaged or truncated; send the whole file") from error


def evenly_spaced(times: Sequence[int], count: int) -> Sequence[int]:
    """Return the times of the frames shown in the middles of `count` equal parts; all if there are not more."""
    if len(times) <= count:
        return times
    part = (times[-1] - times[0]) / count
    picks: list[int] = []
    for index in range(count):
        shown = bisect_right(times, times[0] + (index + 0.5) * part) - 1
        picks.append(min(max(shown, picks[-1] + 1 if picks else 0), len(times) - count + index))
    return [times[pick] for pick in picks]


def _read(container: InputContainer, data: bytes, mime: str, limits: "MediaLimits") -> Clip:
    stream = _video_stream(container)
    codec = stream.codec_context
    second = float(1 / (stream.time_base or 1))  # in units of the stream's timestamps
    pixels = codec.width * codec.height or limits.max_pixels  # the largest possible if the header has no size
    _check("pixels per frame", pixels, limits.max_pixels, "max_pixels")
    check_shape((codec.width, codec.height), limits, "clip")
    _check("frames", stream.frames, limits.max_clip_frames, "max_clip_frames")
    declared_s = max((container.duration or 0) / av.time_base, (stream.duration or 0) / second)
    _check("seconds", declared_s, limits.max_seconds, "max_seconds")

    packets = _packets(container, stream, len(data), limits)
    times = sorted({each.time for each in packets if not each.packet.is_discard})
    if not times:
        raise BrokenMedia("the clip has no frames; send one with at least one frame")
    seconds = (times[-1] - times[0]) / second * len(times) / max(1, len(times) - 1)
    _check("seconds", seconds, limits.max_seconds, "max_seconds")

    codec.options = _cap(2 * pixels)  # the frame size may grow in the stream, within this limit
    codec.thread_type = "AUTO"
    codec.thread_count = _THREADS if codec.name == "h264" else 1  # FFmpeg's threaded VP9 crashes on damaged files
    runs = _runs(packets, evenly_spaced(times, limits.frames), max(1, _MAX_DECODED_PIXELS // pixels))
    frames: list[Frame] = []
    width = height = 0
    for time, picture in _decode(codec, packets, runs):
        check_shape((picture.width, picture.height), limits, "clip")
        image, turned = _upright(picture, limits.frame_side)
        if not frames:
            width, height = (picture.height, picture.width) if turned else (picture.width, picture.height)
        frames.append(Frame((time - times[0]) / second, _jpeg(image), squash(image, limits.thumb_side)))
    if not frames:
        raise BrokenMedia("no frame of the clip can be decoded; send one that can be played")
    return Clip(mime, width, height, seconds, tuple(frames))


def _video_stream(container: InputContainer) -> VideoStream:
    """Return the first video stream, without cover images, and discard all others."""
    videos = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    if not videos:
        raise BrokenMedia("the file has no video, only audio or data; send a clip with video")
    for other in container.streams:
        if other is not videos[0]:
            other.discard = Discard.all
    codec = videos[0].codec_context
    if codec is None or codec.name not in _CODECS:
        raise UnsupportedMedia(
            f"the clip has the video codec {codec.name if codec else 'unknown'}; "
            "send H.264, H.265, VP8, VP9, AV1, MPEG-4 or Motion JPEG"
        )
    return videos[0]


class _TimedPacket(NamedTuple):
    """A packet and the presentation time of its frame, in units of the stream."""

    time: int
    packet: Packet


def _packets(container: InputContainer, stream: VideoStream, size: int, limits: "MediaLimits") -> list[_TimedPacket]:
    """Return all packets of the stream in decoding order."""
    packets: list[_TimedPacket] = []
    read = 0
    for packet in container.demux(stream):
        if packet.pts is None or not packet.size:
            continue
        packets.append(_TimedPacket(packet.pts, packet))
        read += packet.size
        _check("frames", len(packets), limits.max_clip_frames, "max_clip_frames")
        if read > 2 * size:  # valid files use each byte once; the factor allows for packets that the demuxer unpacks
            raise BrokenMedia("the clip is damaged: its frames have more bytes than the file; export it again")
    return packets


@dataclass(slots=True)
class _Run:
    """Consecutive packets to decode, from a key frame on."""

    start: int
    end: int
    #: Times of the selected frames.
    times: set[int]


def _runs(packets: Sequence[_TimedPacket], wanted: Sequence[int], most: int) -> list[_Run]:
    """Plan the decoding of the selected times, in order, with no packet twice.

    Once it would take more than `most` packets, the preceding key frames replace the selected frames.
    """
    position = {each.time: at for at, each in enumerate(packets)}
    runs: list[_Run] = []
    for left, time in zip(range(len(wanted) - 1, -1, -1), wanted, strict=True):
        key = max((at for at, each in enumerate(packets) if each.packet.is_keyframe and each.time <= time), default=0)
        if not runs or key >= runs[-1].end:
            if most < 1:
                break
            runs.append(_Run(key, key, set()))
        run = runs[-1]
        end = max(run.end, position[time] + 1)
        if end - run.end > most - left:  # the rest must suffice for the remaining key frames
            time, end = packets[key].time, max(run.end, key + 1)
        most -= end - run.end
        run.end = end
        run.times.add(time)
    return runs


def _decode(
    codec: VideoCodecContext, packets: Sequence[_TimedPacket], runs: Sequence[_Run]
) -> Iterator[tuple[int, VideoFrame]]:
    """Yield the first frame at or after each selected time, with its own time."""
    codec.open(strict=False)  # before skip_frame is set, since AV1 would keep that setting
    for run in runs:
        codec.flush_buffers()
        wanted = sorted(run.times, reverse=True)
        for shown, packet in [*packets[run.start : run.end], (wanted[0], None)]:  # None drains the codec
            # Frames without dependents are decoded only if they are selected.
            codec.skip_frame = "DEFAULT" if shown in run.times else "NONREF"
            try:
                frames = codec.decode(packet)
            except MemoryError:
                raise
            except FFmpegError:  # one damaged packet; the next may be valid
                continue
            for frame in frames:  # in order of time, some packets later than their own
                if wanted and frame.pts is not None and frame.pts >= wanted[-1]:
                    yield frame.pts, frame
                    wanted = [time for time in wanted if time > frame.pts]


def _upright(picture: VideoFrame, max_side: int) -> tuple[Image.Image, bool]:
    """Return the frame as upright RGB within max_side, and True if width and height are swapped."""
    width, height = fit((picture.width, picture.height), max_side)
    rgb = picture.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC", threads=1)
    image = Image.fromarray(rgb)
    quarter = round(picture.rotation / 90) * 90 % 360
    return (image.transpose(_TRANSPOSE[quarter]) if quarter else image), quarter in (90, 270)


def _jpeg(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def _cap(pixels: int) -> dict[str, str]:
    """Return decoder options that limit the frame size, with a margin, since some codecs count padding."""
    return {"max_pixels": str(2 * pixels + 1_000_000)}


def _check(what: str, value: float, limit: float, name: str) -> None:
    if value > limit:
        raise MediaTooLarge(f"the clip has {value:,.10g} {what}; at most {limit:,} are accepted ({name})")
