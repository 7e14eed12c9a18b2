"""Windows of a long clip: the same video and the same clock as in a clip that is judged at once."""

from io import BytesIO

import pytest

from roadwork_serve.media import Clip, read
from roadwork_serve.media.windows import Window, read_windows
from roadwork_serve.profiles.media_limits import MediaLimits
from tests.media.test_clip_packets import HOUR, STEADY, tracks
from tests.media.test_container import RECORDINGS

LIMITS = MediaLimits()


def windows_of(data: bytes, limits: MediaLimits = LIMITS) -> list[Window]:
    return list(read_windows(BytesIO(data), data, limits, 3600.0))


def clip_of(window: Window) -> Clip:
    media = read(window.data, LIMITS)
    assert isinstance(media, Clip)
    return media


@pytest.mark.parametrize("kind", ["mov", "matroska"])
@pytest.mark.parametrize("preview", [(32, 24), (320, 240)])
def test_a_preview_of_one_frame_is_not_the_video(preview: tuple[int, int], kind: str) -> None:
    data = tracks(("mjpeg", 1, preview, True), ("libx264", 20, (64, 48), True), kind=kind)
    (window,) = windows_of(data)
    clip = clip_of(window)
    assert (clip.width, clip.height) == (64, 48) and len(clip.frames) == 8
    assert window.end_s == pytest.approx(1.9, abs=0.11)


def test_the_video_with_the_most_pixels_comes_first() -> None:
    data = tracks(("libx264", 20, (64, 48), True), ("libx264", 20, (128, 96), True))
    assert [clip_of(each).width for each in windows_of(data)] == [128]


TRUNCATED = [name for name in RECORDINGS if "mp4" in name or "mov" in name or "3gp" in name]


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("share", [0.75, 0.9])
def test_a_truncated_clip_is_judged_on_what_is_whole(name: str, share: float) -> None:
    data = RECORDINGS[name]()
    (whole,) = windows_of(data)
    (cut,) = windows_of(data[: int(len(data) * share) // 100 * 100 - 1])
    assert whole.complete and not cut.complete and 0 < cut.end_s < whole.end_s
    clip = clip_of(cut)
    assert len(clip.frames) >= 4
    for thumb in clip.thumbs:
        assert abs(int(thumb[150, 150, 1]) - int(thumb[150, 150, 2])) < 12, "no frame is half grey, half green"


def test_only_the_last_window_of_a_truncated_clip_is_incomplete() -> None:
    data = RECORDINGS["fragmented mp4"]()
    limits = LIMITS.model_copy(update={"max_clip_frames": 10})
    assert [each.complete for each in windows_of(data[: len(data) * 3 // 4], limits)] == [True, True, False]


@pytest.mark.parametrize("kind", ["mp4", "matroska", "mpegts"])
@pytest.mark.parametrize("after_ms", [100, 1200])
def test_a_jump_of_the_clock_is_no_length(after_ms: int, kind: str) -> None:
    times_ms = [time + (HOUR if time >= after_ms else 0) for time in STEADY]
    (window,) = windows_of(tracks(("libx264", 24, (64, 48), True), kind=kind, times_ms=times_ms))
    assert window.end_s == pytest.approx(2.3, abs=0.2)
    assert clip_of(window).seconds == pytest.approx(2.4, abs=0.05)
