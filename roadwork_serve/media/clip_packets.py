"""The packets of a clip's video, with times on a steady clock. Demuxing is cheap and gives the true count and times."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from roadwork_serve.clip_formats import CLIP_CODECS, CODEC_NAMES
from roadwork_serve.errors import BrokenMedia, MediaTooLarge, UnsupportedMedia

if TYPE_CHECKING:
    from roadwork_serve.profiles.media_limits import MediaLimits

_MAX_CANDIDATES = 4
_MAX_AHEAD = 50  # packets that are read to find whether the largest video has more than one frame
_JUMP_S, _JUMP_STEPS = 5.0, 10  # a longer gap than both is a jump of the clock; the second is in usual gaps
_RESTART_S = 0.5  # frames are reordered by less
_USUAL_RATE = 25
_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails


class TimedPacket(NamedTuple):
    """A packet and the presentation time of its frame, in units of the stream."""

    time: int
    packet: Packet


@dataclass(frozen=True, slots=True)
class VideoPackets:
    """The packets of the video that a player would show, in decoding order."""

    stream: VideoStream
    packets: list[TimedPacket]
    #: False if the demuxer met an error, and what follows is missing.
    complete: bool


def read_packets(container: InputContainer, size: int, limits: "MediaLimits", cut: bool) -> VideoPackets:
    """Return the packets of the video that a player would show.

    As in FFmpeg and in players, a stream marked as the default comes first, then one of more than one frame, then the
    one with the most pixels. Jumps of the clock do not count as time.

    Args:
        container: The opened clip.
        size: Bytes of the file.
        limits: Limits on media.
        cut: The last frame is cut in the middle.

    Raises:
        UnsupportedMedia: No video has a supported codec.
        MediaTooLarge: It has too many frames.
        BrokenMedia: There is no video, or the demuxer fails at once.
    """
    streams = _candidates(container)
    read, complete = _demux(container, streams, size, limits.max_clip_frames)
    stream = _shown(streams, {index: len(found) for index, found in read.items()})
    packets = read[stream.index]
    if len(packets) > limits.max_clip_frames:
        limit = f"{limits.max_clip_frames:,}"
        raise MediaTooLarge(f"the clip has more than {limit} frames; at most {limit} are accepted (max_clip_frames)")
    if len(packets) > 1 and (cut or packets[-1].is_corrupt):
        packets.pop()
        complete = False
    return VideoPackets(stream, _on_steady_clock(packets, stream), complete)


def demux_video(container: InputContainer) -> tuple[VideoStream, Iterator[Packet]]:
    """Return the video that `read_packets` chooses, and its packets, of which only the first are read ahead.

    Raises:
        UnsupportedMedia: No video has a supported codec.
        BrokenMedia: There is no video.
    """
    streams = _candidates(container)
    largest = max(streams, key=_pixels)
    ahead: list[Packet] = []
    frames: Counter[int] = Counter()
    packets = container.demux(*streams)
    try:
        while len(streams) > 1 and frames[largest.index] < 2 and len(ahead) < _MAX_AHEAD:
            packet = next(packets, None)
            if packet is None:
                break
            ahead.append(packet)
            frames[packet.stream_index] += packet.size > 0
    except MemoryError:
        raise
    except FFmpegError as error:
        packets = _failing(error)
    stream = _shown(streams, frames)
    _discard_all_but(container, [stream])
    return stream, (each for part in (ahead, packets) for each in part if each.stream_index == stream.index)


def _failing(error: FFmpegError) -> Iterator[Packet]:
    raise error
    yield


def _shown(streams: Sequence[VideoStream], frames: Mapping[int, int]) -> VideoStream:
    """Return the video of several that a player would show, given the number of frames by index."""
    return max(streams, key=lambda each: (frames[each.index] > 1, _pixels(each)))


def _candidates(container: InputContainer) -> Sequence[VideoStream]:
    """Return the streams among which the number of frames and pixels decides, and discard all others."""
    videos = [each for each in container.streams.video if not each.disposition & _PICTURES]
    if not videos:
        raise BrokenMedia("the file has no video, only audio or data; send a clip with video")
    decodable = [each for each in videos if each.codec_context is not None and each.codec_context.name in CLIP_CODECS]
    if not decodable:
        codec = videos[0].codec_context
        raise UnsupportedMedia(
            f"the clip has the video codec {codec.name if codec else 'unknown'}; send {CODEC_NAMES}, "
            "for example with `ffmpeg -i CLIP -c:v libx264 out.mp4`"
        )
    default = [each for each in decodable if each.disposition & Disposition.default] or decodable
    chosen = sorted(default, key=_pixels, reverse=True)[:_MAX_CANDIDATES]
    _discard_all_but(container, chosen)
    return sorted(chosen, key=lambda each: each.index)


def _discard_all_but(container: InputContainer, streams: Sequence[VideoStream]) -> None:
    indices = {each.index for each in streams}
    for other in container.streams:
        if other.index not in indices:
            other.discard = Discard.all


def _pixels(stream: VideoStream) -> int:
    return stream.codec_context.width * stream.codec_context.height


def _demux(
    container: InputContainer, streams: Sequence[VideoStream], size: int, most: int
) -> tuple[dict[int, list[Packet]], bool]:
    """Return the packets of each stream, at most one more than `most`, and whether the file was read to its end."""
    packets: dict[int, list[Packet]] = {each.index: [] for each in streams}
    read = 0
    try:
        for packet in container.demux(*streams):
            if not packet.size:
                continue
            found = packets[packet.stream_index]
            if len(found) <= most:
                found.append(packet)
            elif all(len(each) > most for each in packets.values()):
                break
            read += packet.size
            if read > 2 * size:  # valid files use each byte once; the factor allows for packets that are unpacked
                raise BrokenMedia("the clip is damaged: its frames have more bytes than the file; export it again")
    except MemoryError:
        raise
    except FFmpegError:
        if not any(packets.values()):
            raise
        return packets, False
    return packets, True


def _on_steady_clock(packets: Sequence[Packet], stream: VideoStream) -> list[TimedPacket]:
    """Return the packets with times in which the clock neither jumps nor starts anew.

    A camera sets its clock while it records, loses a part, or joins recordings. Such a gap counts as a usual one. The
    packets get these times too, so that decoded frames have them.
    """
    second = float(1 / (stream.time_base or 1))
    times = _rising_times(packets, second, round(second / (stream.average_rate or _USUAL_RATE)))
    ordered = sorted(set(times))
    gaps = [after - before for before, after in pairwise(ordered)]
    usual = sorted(gaps)[(len(gaps) - 1) // 2] if gaps else 0
    longest = max(_JUMP_S * second, _JUMP_STEPS * usual)
    steady = {time: time for time in ordered[:1]}
    for gap, (before, after) in zip(gaps, pairwise(ordered), strict=True):
        steady[after] = steady[before] + (gap if gap <= longest else usual)
    for packet, time in zip(packets, times, strict=True):
        packet.pts = steady[time]
    return [TimedPacket(steady[time], packet) for packet, time in zip(packets, times, strict=True)]


def _rising_times(packets: Sequence[Packet], second: float, step: int) -> list[int]:
    """Return when the frame of each packet is shown. A clock that starts anew goes on from the latest frame.

    step: time of a frame without a time of its own, as in program streams with several frames in a packet.
    """
    times: list[int] = []
    decoded = offset = latest = 0
    delay = 0  # of showing a frame after decoding it
    for packet in packets:
        before = decoded
        if packet.dts is not None or packet.pts is not None:
            decoded = packet.dts if packet.dts is not None else packet.pts or 0
            delay = packet.pts - decoded if packet.pts is not None else delay
        else:
            decoded += packet.duration or step
        if times and decoded < before - _RESTART_S * second:
            offset = latest + step - decoded - delay
        times.append(decoded + delay + offset)
        latest = max(latest, times[-1]) if len(times) > 1 else times[-1]
    return times
