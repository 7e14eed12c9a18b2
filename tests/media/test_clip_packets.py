"""The video that a player would show, and its clock."""

from collections.abc import Sequence
from io import BytesIO

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.frame import VideoFrame

from roadwork_serve.errors import MediaTooLarge, UnsupportedMedia
from roadwork_serve.media import Clip, read
from roadwork_serve.profiles.media_limits import MediaLimits
from tests import corpus

LIMITS = MediaLimits()


def tracks(
    *streams: tuple[str, int, tuple[int, int], bool], kind: str = "mov", times_ms: Sequence[int] = (), sound_s: int = 0
) -> bytes:
    """Return a clip of several videos: codec, number of frames, size, and whether it is the default.

    times_ms: when the frames are shown, by default 10 a second. sound_s: seconds of sound beside them.
    """
    file = BytesIO()
    with av.open(file, "w", format=kind) as container:
        opened = []
        for codec, frames, size, default in streams:
            stream = container.add_stream(codec, rate=1000 if codec == "libx264" else 10)
            stream.width, stream.height = size
            stream.pix_fmt = {"mjpeg": "yuvj420p", "prores_ks": "yuv422p10le"}.get(codec, "yuv420p")
            stream.codec_context.thread_count = 1
            stream.codec_context.gop_size = 4
            stream.disposition = Disposition.default if default else Disposition(0)
            opened.append((stream, frames, size))
        audio = container.add_stream("mp2", rate=32000, layout="mono") if sound_s else None
        for stream, frames, size in opened:
            for number in range(frames):
                grey = np.full((size[1], size[0], 3), corpus.grey_of(number), np.uint8)
                frame = VideoFrame.from_ndarray(grey, format="rgb24")
                step = 100 if stream.codec_context.name == "libx264" else 1
                frame.pts = times_ms[number] if times_ms else number * step
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        if audio:
            for number in range(sound_s * 32000 // 1152):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
                frame.sample_rate, frame.pts = 32000, number * 1152
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return file.getvalue()


def clip_of(data: bytes, limits: MediaLimits = LIMITS) -> Clip:
    media = read(data, limits)
    assert isinstance(media, Clip)
    return media


@pytest.mark.parametrize("kind", ["mov", "matroska"])
@pytest.mark.parametrize(
    ("streams", "shown"),
    [
        ([("mjpeg", 1, (32, 24), False), ("libx264", 20, (64, 48), True)], (64, 48)),  # a preview in front
        ([("mjpeg", 1, (320, 240), True), ("libx264", 20, (64, 48), True)], (64, 48)),  # a large one
        ([("libx264", 20, (64, 48), True), ("libx264", 20, (128, 96), False)], (64, 48)),  # the default comes first
        ([("libx264", 20, (64, 48), True), ("libx264", 20, (128, 96), True)], (128, 96)),
        ([("libx264", 20, (64, 48), True), ("libx264", 20, (64, 48), True)], (64, 48)),
    ],
)
def test_the_video_is_that_of_a_player(streams: list, shown: tuple[int, int], kind: str) -> None:
    clip = clip_of(tracks(*streams, kind=kind))
    assert (clip.width, clip.height) == shown and len(clip.frames) == 8
    assert clip.seconds == pytest.approx(2.0, abs=0.15)


def test_a_video_that_can_be_decoded_comes_first() -> None:
    unknown, known = ("prores_ks", 10, (64, 48), True), ("libx264", 20, (32, 32), False)
    assert clip_of(tracks(unknown, known)).width == 32
    with pytest.raises(UnsupportedMedia, match=r"video codec prores; send H\.264, .*libx264"):
        clip_of(tracks(unknown))


def test_limits_hold_for_the_chosen_video() -> None:
    streams = ("mjpeg", 1, (32, 24), False), ("libx264", 20, (64, 48), True)
    assert clip_of(tracks(*streams), MediaLimits(max_clip_frames=20)).frames
    with pytest.raises(MediaTooLarge, match="more than 19 frames; at most 19 are accepted"):
        clip_of(tracks(*streams), MediaLimits(max_clip_frames=19))


STEADY = [number * 100 for number in range(24)]
HOUR = 3_600_000


@pytest.mark.parametrize("kind", ["mp4", "matroska", "mpegts"])
@pytest.mark.parametrize(
    "times_ms",
    [
        [time + (HOUR if time >= 1200 else 0) for time in STEADY],
        [time + 20_000 * (time // 600) for time in STEADY],  # three gaps of 20 s
        [time + (12 * HOUR if time >= 100 else 0) for time in STEADY],
    ],
)
def test_a_jump_of_the_clock_does_not_count(times_ms: list[int], kind: str) -> None:
    clip = clip_of(tracks(("libx264", 24, (64, 48), True), kind=kind, times_ms=times_ms))
    steady = clip_of(tracks(("libx264", 24, (64, 48), True), kind=kind, times_ms=STEADY))
    assert clip.seconds == pytest.approx(2.4, abs=0.05)
    assert clip.timestamps_s == pytest.approx(steady.timestamps_s, abs=0.05)
    assert np.abs(clip.thumbs.astype(int) - steady.thumbs).mean() < 3


def test_a_slow_series_of_pictures_is_as_long_as_it_is() -> None:
    times_ms = [number * 10_000 for number in range(24)]
    with pytest.raises(MediaTooLarge, match="seconds; at most 120"):
        clip_of(tracks(("libx264", 24, (64, 48), True), kind="mp4", times_ms=times_ms))


def test_a_clock_that_starts_anew_goes_on() -> None:
    one = corpus.clip(20, kind="mpegts", codec="mpeg2video", fps=25)
    clip = clip_of(one + one)
    assert clip.seconds == pytest.approx(1.6, abs=0.1) and len(clip.frames) == 8
    greys = [int(thumb[150, 150, 0]) for thumb in clip.thumbs]
    assert greys == sorted(greys[:4]) + sorted(greys[4:]) and max(greys[:4]) > greys[4]


@pytest.mark.parametrize("kind", ["mp4", "matroska", "mpegts"])
def test_longer_sound_does_not_count(kind: str) -> None:
    clip = clip_of(tracks(("libx264", 24, (64, 48), True), kind=kind, sound_s=130))
    assert clip.seconds == pytest.approx(2.4, abs=0.05)
