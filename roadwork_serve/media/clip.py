"""Clips: evenly spread frames with their timestamps, at a bounded cost.

All packets are demuxed first, which costs next to nothing and tells the true count and times of the
frames, whatever the container declares; then only the groups of pictures with a wanted frame are decoded.
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
from roadwork_serve.media.photo import fit, squash

if TYPE_CHECKING:
    from roadwork_serve.profiles.profile import MediaLimits

_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg", "h263")
_MAX_DECODED_PIXELS = 2_000_000_000  # all frames together: 35 s of 1080p in one group of pictures, 5 to 10 s of a core
_THREADS = 4
_JPEG_QUALITY = 88
_TOO_HUNGRY = "the clip takes more memory to decode than it may; send it at a smaller size"
_UPRIGHT = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One sampled frame: seconds since the clip's first, a JPEG of it, and thumb, uint8 RGB [side, side, 3]."""

    timestamp_s: float
    jpeg: bytes
    thumb: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A clip and its sampled frames in order. width and height are those of the upright picture."""

    encoded: bytes
    mime: str
    width: int
    height: int
    seconds: float
    frames: tuple[Frame, ...]

    @property
    def kind(self) -> Literal["clip"]:
        return "clip"

    @property
    def images(self) -> tuple[bytes, ...]:
        return tuple(frame.jpeg for frame in self.frames)

    @property
    def thumbs(self) -> NDArray[np.uint8]:
        """uint8 RGB of shape [frames, side, side, 3]."""
        return np.stack([frame.thumb for frame in self.frames])

    @property
    def timestamps_s(self) -> tuple[float, ...]:
        return tuple(frame.timestamp_s for frame in self.frames)


def read_clip(data: bytes, mime: str, limits: "MediaLimits") -> Clip:
    """The clip in bytes of a known type, with `limits.frames` frames from the middles of as many equal parts.

    A clip of fewer frames gives all it has. Where that would cost too much decoding, key frames stand in
    for the later ones: the timestamps say which frames they are.

    Raises MediaTooLarge past a limit, UnsupportedMedia for an unknown coding, and BrokenMedia.
    """
    webm = mime == "video/webm"
    try:
        check_webm(data) if webm else check_mp4(data)
        options = {"codec_whitelist": ",".join(_CODECS), **_cap(limits.max_pixels)}  # opening decodes a little
        with av.open(
            BytesIO(data), "r", format="matroska" if webm else "mov", options=options, metadata_errors="replace"
        ) as container:
            return _read(container, data, mime, limits)
    except MediaError:
        raise
    except MemoryError:
        raise MediaTooLarge(_TOO_HUNGRY) from None
    except Exception as error:
        raise BrokenMedia("the clip is damaged or cut short; send the whole file") from error


def spread(times: Sequence[int], count: int) -> Sequence[int]:
    """Of the rising times, those shown at the middles of `count` equal parts; all, if there are no more than count."""
    if len(times) <= count:
        return times
    part = (times[-1] - times[0]) / count
    picks: list[int] = []
    for index in range(count):
        shown = bisect_right(times, times[0] + (index + 0.5) * part) - 1
        picks.append(min(max(shown, picks[-1] + 1 if picks else 0), len(times) - count + index))
    return [times[pick] for pick in picks]


def _read(container: InputContainer, data: bytes, mime: str, limits: "MediaLimits") -> Clip:
    stream = _picture_stream(container)
    codec = stream.codec_context
    second = float(1 / (stream.time_base or 1))  # in units of the stream's timestamps
    pixels = codec.width * codec.height or limits.max_pixels  # the worst where the header does not say
    _check("pixels a frame", pixels, limits.max_pixels, "max_pixels")
    _check("frames", stream.frames, limits.max_clip_frames, "max_clip_frames")
    declared_s = max((container.duration or 0) / av.time_base, (stream.duration or 0) / second)
    _check("seconds", declared_s, limits.max_seconds, "max_seconds")

    packets = _packets(container, stream, len(data), limits)
    times = sorted({each.time for each in packets if not each.packet.is_discard})
    if not times:
        raise BrokenMedia("the clip holds no pictures; send one with at least one frame")
    seconds = (times[-1] - times[0]) / second * len(times) / max(1, len(times) - 1)
    _check("seconds", seconds, limits.max_seconds, "max_seconds")

    codec.options = _cap(2 * pixels)  # pictures may grow on the way, but not to any size
    codec.thread_type = "AUTO"
    codec.thread_count = _THREADS if codec.name == "h264" else 1  # FFmpeg's threaded VP9 crashes on damaged files
    runs = _runs(packets, spread(times, limits.frames), max(1, _MAX_DECODED_PIXELS // pixels))
    frames: list[Frame] = []
    width = height = 0
    for time, picture in _decode(codec, packets, runs):
        _check("pixels a frame", picture.width * picture.height, limits.max_pixels, "max_pixels")
        image, turned = _upright(picture, limits.frame_side)
        if not frames:
            width, height = (picture.height, picture.width) if turned else (picture.width, picture.height)
        frames.append(Frame((time - times[0]) / second, _jpeg(image), squash(image, limits.thumb_side)))
    if not frames:
        raise BrokenMedia("no frame of the clip can be decoded; send one that plays")
    return Clip(data, mime, width, height, seconds, tuple(frames))


def _picture_stream(container: InputContainer) -> VideoStream:
    """The first video stream; the others are not even read. A cover picture is none."""
    videos = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    if not videos:
        raise BrokenMedia("the file holds no video, only sound or data; send a clip with pictures")
    for other in container.streams:
        if other is not videos[0]:
            other.discard = Discard.all
    codec = videos[0].codec_context
    if codec is None or codec.name not in _CODECS:
        raise UnsupportedMedia(
            f"the clip's pictures are coded as {codec.name if codec else 'something unknown'}; "
            "send H.264, H.265, VP8, VP9, AV1, MPEG-4 or Motion JPEG"
        )
    return videos[0]


class _Coded(NamedTuple):
    """A packet and when its frame is shown, in units of the stream."""

    time: int
    packet: Packet


def _packets(container: InputContainer, stream: VideoStream, size: int, limits: "MediaLimits") -> list[_Coded]:
    """All packets of the stream, in the order they are decoded in."""
    packets: list[_Coded] = []
    read = 0
    for packet in container.demux(stream):
        if packet.pts is None or not packet.size:
            continue
        packets.append(_Coded(packet.pts, packet))
        read += packet.size
        _check("frames", len(packets), limits.max_clip_frames, "max_clip_frames")
        if read > 2 * size:  # honest files use a byte once; the rest is room for packets the demuxer unpacks
            raise BrokenMedia("the clip is damaged: its frames claim more bytes than the file has; export it again")
    return packets


@dataclass(slots=True)
class _Run:
    """Packets from a key frame on to decode in one go, and the times wanted from among them."""

    start: int
    end: int
    times: set[int]


def _runs(packets: Sequence[_Coded], wanted: Sequence[int], most: int) -> list[_Run]:
    """What to decode for the wanted times, in order, with no packet twice.

    Once frames cost more than the `most` packets allowed in all, the key frames before them stand in.
    """
    place = {each.time: at for at, each in enumerate(packets)}
    runs: list[_Run] = []
    for left, time in zip(range(len(wanted) - 1, -1, -1), wanted, strict=True):
        key = max((at for at, each in enumerate(packets) if each.packet.is_keyframe and each.time <= time), default=0)
        if not runs or key >= runs[-1].end:
            if most < 1:
                break
            runs.append(_Run(key, key, set()))
        run = runs[-1]
        end = max(run.end, place[time] + 1)
        if end - run.end > most - left:  # what is left over must do for the key frames to come
            time, end = packets[key].time, max(run.end, key + 1)
        most -= end - run.end
        run.end = end
        run.times.add(time)
    return runs


def _decode(
    codec: VideoCodecContext, packets: Sequence[_Coded], runs: Sequence[_Run]
) -> Iterator[tuple[int, VideoFrame]]:
    """For each wanted time the first frame of its run from then on, with its own time."""
    codec.open(strict=False)  # before skip_frame is first set: AV1 would hold to that for good
    for run in runs:
        codec.flush_buffers()
        wanted = sorted(run.times, reverse=True)
        for shown, packet in [*packets[run.start : run.end], (wanted[0], None)]:  # None drains the codec
            # Frames that no other frame builds on need decoding only where they are wanted.
            codec.skip_frame = "DEFAULT" if shown in run.times else "NONREF"
            try:
                frames = codec.decode(packet)
            except MemoryError:
                raise
            except FFmpegError:  # one damaged packet; the next may do
                continue
            for frame in frames:  # they come in order of time, some packets after their own
                if wanted and frame.pts is not None and frame.pts >= wanted[-1]:
                    yield frame.pts, frame
                    wanted = [time for time in wanted if time > frame.pts]


def _upright(picture: VideoFrame, max_side: int) -> tuple[Image.Image, bool]:
    """The frame in RGB, no longer than max_side and turned as the camera was held, and whether it lies on its side."""
    width, height = fit((picture.width, picture.height), max_side)
    rgb = picture.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC", threads=1)
    image = Image.fromarray(rgb)
    quarter = round(picture.rotation / 90) * 90 % 360
    return (image.transpose(_UPRIGHT[quarter]) if quarter else image), quarter in (90, 270)


def _jpeg(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def _cap(pixels: int) -> dict[str, str]:
    """What keeps a decoder from pictures much larger; with room, because some count the padding."""
    return {"max_pixels": str(2 * pixels + 1_000_000)}


def _check(what: str, value: float, limit: float, name: str) -> None:
    if value > limit:
        raise MediaTooLarge(f"the clip has {value:,.10g} {what}; at most {limit:,} are accepted ({name})")
