"""Clips: evenly spaced frames with their timestamps, at a bounded cost.

All packets are demuxed first, which is cheap and gives the true count and times of the frames, whatever the container
declares. Then only the groups of pictures with a selected frame are decoded.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Literal

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from roadwork_serve.clip_formats import CLIP_CODECS, MPEG_PS, MPEG_TS, format_of
from roadwork_serve.errors import BrokenMedia, MediaError, MediaTooLarge
from roadwork_serve.media.clip_packets import TimedPacket, read_packets
from roadwork_serve.media.container import Extent, check_container
from roadwork_serve.media.header_limits import check_shape
from roadwork_serve.media.photo import fit, squash

if TYPE_CHECKING:
    from roadwork_serve.profiles.media_limits import MediaLimits

OPTIONS = {
    "codec_whitelist": ",".join(CLIP_CODECS),
    "fflags": "+genpts",  # an AVI has only times of decoding
    "skip_estimate_duration_from_pts": "1",  # the packets give it, without seeking
}
_CUT_IN_FRAMES = (MPEG_TS.mime, MPEG_PS.mime)  # these do not tell where a frame ends
_MAX_DECODED_PIXELS = 2_000_000_000  # of all frames: 35 s of 1080p in one group of pictures, 5 to 10 s of a CPU core
_THREADS = 4
_JPEG_QUALITY = 88
_OUT_OF_MEMORY = "decoding the clip takes too much memory; send it at a smaller size"
_CUT_SHORT = "the clip is truncated: it ends before its first whole frame; send the whole file"
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
    #: True if the file is truncated or damaged, and the frames are of the part that could be read.
    incomplete: bool = False

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
    try:
        kind = format_of(mime)
        extent = check_container(data, kind)
        file = BytesIO(data if extent.complete else data[extent.start : extent.end])
        options = OPTIONS | capped(limits.max_pixels)  # opening already decodes some packets
        with av.open(file, "r", format=kind.demuxer, options=options, metadata_errors="replace") as container:
            return _read(container, mime, extent, limits)
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


def _read(container: InputContainer, mime: str, extent: Extent, limits: "MediaLimits") -> Clip:
    size = extent.end - extent.start
    video = read_packets(container, size, limits, cut=not extent.complete and mime in _CUT_IN_FRAMES)
    stream, packets = video.stream, video.packets
    codec = stream.codec_context
    second = float(1 / (stream.time_base or 1))  # in units of the stream's timestamps
    pixels = codec.width * codec.height or limits.max_pixels  # the largest possible if the header has no size
    _check("pixels per frame", pixels, limits.max_pixels, "max_pixels")
    check_shape((codec.width, codec.height), limits, "clip")

    times = sorted({each.time for each in packets if not each.packet.is_discard})
    if not times:
        raise BrokenMedia("the clip has no frames; send one with at least one frame" if extent.complete else _CUT_SHORT)
    seconds = (times[-1] - times[0]) / second * len(times) / max(1, len(times) - 1)
    _check("seconds", seconds, limits.max_seconds, "max_seconds")

    codec.options = capped(2 * pixels)  # the frame size may grow in the stream, within this limit
    codec.thread_type = "AUTO"
    codec.thread_count = _THREADS if codec.name == "h264" else 1  # FFmpeg's threaded VP9 crashes on damaged files
    runs = _runs(packets, evenly_spaced(times, limits.frames), max(1, _MAX_DECODED_PIXELS // pixels))
    frames: list[Frame] = []
    width = height = 0
    for time, picture in _decode(codec, packets, runs):
        check_shape((picture.width, picture.height), limits, "clip")
        image, turned = upright(picture, limits.frame_side)
        if not frames:
            width, height = (picture.height, picture.width) if turned else (picture.width, picture.height)
        frames.append(Frame((time - times[0]) / second, _jpeg(image), squash(image, limits.thumb_side)))
    if not frames:
        whole = "no frame of the clip can be decoded; send one that can be played"
        raise BrokenMedia(whole if extent.complete else _CUT_SHORT)
    return Clip(mime, width, height, seconds, tuple(frames), not (extent.complete and video.complete))


@dataclass(slots=True)
class _Run:
    """Consecutive packets to decode, from a key frame on."""

    start: int
    end: int
    #: Times of the selected frames.
    times: set[int]


def _runs(packets: Sequence[TimedPacket], wanted: Sequence[int], most: int) -> list[_Run]:
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
    codec: VideoCodecContext, packets: Sequence[TimedPacket], runs: Sequence[_Run]
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


def upright(picture: VideoFrame, max_side: int) -> tuple[Image.Image, bool]:
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


def capped(pixels: int) -> dict[str, str]:
    """Return decoder options that limit the frame size, with a margin, since some codecs count padding."""
    return {"max_pixels": str(2 * pixels + 1_000_000)}


def _check(what: str, value: float, limit: float, name: str) -> None:
    if value > limit:
        raise MediaTooLarge(f"the clip has {value:,.10g} {what}; at most {limit:,} are accepted ({name})")
