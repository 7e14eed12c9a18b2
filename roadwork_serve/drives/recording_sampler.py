"""Frames of a recording at even times, read in one go at bounded memory. Runs in the confined process."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from roadwork_serve.clip_formats import MPEG_PS, MPEG_TS, ClipFormat
from roadwork_serve.errors import BrokenMedia, MediaTooLarge
from roadwork_serve.media.clip import capped
from roadwork_serve.media.clip_packets import demux_video
from roadwork_serve.media.header_limits import check_shape

if TYPE_CHECKING:
    from roadwork_serve.profiles.media_limits import MediaLimits

_NOT_SEEKABLE = (MPEG_TS, MPEG_PS)  # their clock may jump, so that only reading finds a time
_USUAL_RATE = 25.0
_THREADS = 2
_JUMP_S, _RESTART_S = 5.0, 0.5  # a longer gap is a jump of the clock, a step back of more its new start
_JUMP_STEPS = 10  # and longer than so many usual ones, where the index has key frames alone
_LOOK = (32, 18)  # pixels at which frames are compared
# Grey levels, of the whole frame and of its most different part: a camera that stands still stays below both.
_SAME_MEAN, _SAME_MOST = 2.0, 14.0


class SampledFrame(NamedTuple):
    """A frame and its time."""

    #: Seconds since the first frame.
    time_s: float
    picture: VideoFrame
    #: True if it looks like the last frame that does not.
    same: bool


class Sampler:
    """Reads the video of a recording that a player would show, once. Raises MediaError if it has none to read."""

    def __init__(
        self,
        container: InputContainer,
        kind: ClipFormat,
        limits: "MediaLimits",
        skip_duplicates: bool = True,
    ) -> None:
        self._container, self._kind, self._limits = container, kind, limits
        stream, self._demuxed = demux_video(container)
        self._stream = stream
        self._skip_duplicates = skip_duplicates
        self._tick = float(stream.time_base or 1 / 90_000)
        self._origin = float(stream.start_time or 0) * self._tick
        self._step_s = 1 / float(stream.average_rate or _USUAL_RATE)
        if self._step_s > _JUMP_S:
            self._step_s = 1 / _USUAL_RATE  # the clock jumps, which makes the average useless
        #: Seconds that the clock jumped ahead, up to the last frame.
        self.jumped_s = 0.0
        #: False once the end of the file turned out to be missing or damaged.
        self.complete = True
        codec = stream.codec_context
        pixels = codec.width * codec.height
        if pixels > limits.max_pixels:
            raise MediaTooLarge(f"the recording has {pixels:,} pixels per frame; at most {limits.max_pixels:,}")
        check_shape((codec.width, codec.height), limits, "clip")
        codec.options = capped(2 * pixels or limits.max_pixels)
        codec.thread_type = "AUTO"
        codec.thread_count = _THREADS if codec.name in ("h264", "hevc") else 1
        codec.skip_frame = "NONREF" if codec.name in ("h264", "hevc") else "DEFAULT"  # a sixth of a second off at most

    @property
    def seconds(self) -> float | None:
        """Length as the file declares it; None if it does not."""
        if self._stream.duration:
            return float(self._stream.duration) * self._tick
        return self._container.duration / 1e6 if self._container.duration else None

    def frames(self, from_s: float, step_s: float) -> Iterator[SampledFrame]:
        """Yield the first frame in each step of time, from a time on.

        Raises BrokenMedia if none can be decoded at all.
        """
        self._seek(from_s)
        due, look, count = from_s, None, 0
        for time_s, picture in self._decoded():
            count += 1
            if time_s < due - 1e-6:
                continue
            check_shape((picture.width, picture.height), self._limits, "clip")
            due = (math.floor(time_s / step_s + 1e-6) + 1) * step_s
            seen = _look(picture) if self._skip_duplicates else None
            same = look is not None and seen is not None and _alike(look, seen)
            look = look if same else seen
            yield SampledFrame(round(time_s, 3), picture, same)
        if not count and from_s == 0:
            raise BrokenMedia("no frame of the recording can be decoded; send one that can be played")

    def _seek(self, from_s: float) -> None:
        """Go to a frame at or before a time. Beyond the first jump of the clock only reading finds a time."""
        if from_s > 0 and self._kind not in _NOT_SEEKABLE:
            time = round((from_s + self._origin) / self._tick)
            time = min(time, self._first_jump(time) or time)
            self._container.seek(time, stream=self._stream, backward=True)
            self._demuxed = self._container.demux(self._stream)

    def _first_jump(self, until: int) -> int | None:
        """Return the time of the last frame before the clock jumps, in units of the stream; None if it does not."""
        times = np.fromiter((each.timestamp for each in self._stream.index_entries), np.int64)
        gaps = np.diff(times)
        if not len(gaps):
            return None
        longest = max(_JUMP_S / self._tick, _JUMP_STEPS * float(np.median(gaps)))
        jumps = np.flatnonzero((gaps > longest) | (gaps < -_RESTART_S / self._tick))
        return int(times[jumps[0]]) if len(jumps) and times[jumps[0]] < until else None

    def _decoded(self) -> Iterator[tuple[float, VideoFrame]]:
        """Yield the frames with times on a clock that does not jump."""
        last = None
        for packet in self._packets():
            try:
                pictures = self._stream.codec_context.decode(packet)
            except MemoryError:
                raise
            except FFmpegError:  # one damaged packet; the next may be valid
                continue
            for picture in pictures:
                own = last + self._step_s if last is not None else 0.0
                if picture.pts is not None:
                    own = picture.pts * self._tick - self._origin - self.jumped_s
                if last is not None and not last - _RESTART_S <= own <= last + _JUMP_S:
                    self.jumped_s += own - last - self._step_s
                    own = last + self._step_s
                elif last is not None and own > last:
                    self._step_s = own - last
                last = own if last is None else max(last, own)
                yield own, picture

    def _packets(self) -> Iterator[Packet | None]:
        cut = False  # the last packet
        while True:
            try:
                packet = next(self._demuxed, None)
            except MemoryError:
                raise
            except FFmpegError:
                self.complete = False
                packet = None
            if packet is None or not packet.size:
                break
            cut = packet.is_corrupt
            yield packet
        self.complete &= not cut
        yield None  # drains the decoder


def _look(picture: VideoFrame) -> NDArray[np.float32]:
    """Return the frame as a few grey pixels."""
    grey = picture.to_ndarray(format="gray", width=_LOOK[0], height=_LOOK[1], interpolation="AREA", threads=1)
    return grey.astype(np.float32)


def _alike(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    apart = np.abs(one - other)
    return bool(apart.mean() < _SAME_MEAN and apart.max() < _SAME_MOST)
