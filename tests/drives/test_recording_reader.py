"""Recordings read through the confined process."""

import os
import random
from pathlib import Path

import numpy as np
import pytest

from roadwork_serve.drives.recording_reader import RecordingReader
from roadwork_serve.drives.telemetry import telemetry_track
from roadwork_serve.errors import MediaError, UnsupportedMedia
from roadwork_serve.media import open_rgb, read
from roadwork_serve.media.clip import Clip
from roadwork_serve.profiles.media_limits import MediaLimits
from tests.drives import made
from tests.media.test_clip_packets import HOUR, STEADY, tracks
from tests.media.test_container import RECORDINGS

LIMITS = MediaLimits()


def grey(at_s: float) -> np.ndarray:
    """Return a picture whose brightness is the time: 20 levels a second."""
    return np.full((240, 320, 3), min(250, 20 + round(20 * at_s)), np.uint8)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drives") / "GX010001.MP4"
    path.write_bytes(made.video(10, picture=grey, telemetry=made.gps5, created=made.START))
    return path


def brightness(jpeg: bytes) -> float:
    return float(np.asarray(open_rgb(jpeg)).mean())


def test_frames_clips_and_telemetry_of_one_recording(recording: Path) -> None:
    with RecordingReader(recording, LIMITS) as reader:
        frames = list(reader.frames(0.0, 0.5))
        assert [each.time_s for each in frames] == pytest.approx(np.arange(20) / 2, abs=0.21)
        for each in frames:
            assert each.jpeg and brightness(each.jpeg) == pytest.approx(20 + 20 * each.time_s, abs=3)
        assert reader.about.seconds == pytest.approx(10) and reader.about.created.startswith("2026-05-04T08:30:00")
        assert reader.complete

        resumed = list(reader.frames(6.0, 0.5))
        assert [each.time_s for each in resumed] == [each.time_s for each in frames if each.time_s >= 6]

        clip = read(reader.clip(4.0, 6.0), LIMITS)
        assert isinstance(clip, Clip) and clip.seconds == pytest.approx(2, abs=0.3)
        assert clip.thumbs.mean() == pytest.approx(20 + 20 * 5, abs=6)
        assert brightness(reader.frame(7.0)) == pytest.approx(160, abs=5)

        (packets,) = reader.telemetry().values()
        track = telemetry_track(packets, recording.name)
        assert track and track.begin_s == 0 and track.start_utc_s == pytest.approx(made.START.timestamp())
        assert next(iter(reader.frames(0.0, 0.5))).time_s == 0, "a reader that was left is usable again"


def test_a_camera_that_stands_still_gives_no_new_frames(tmp_path: Path) -> None:
    def stop_and_go(at_s: float) -> np.ndarray:
        rng = np.random.default_rng(round(at_s * 10))
        noise = rng.normal(0, 4, (240, 320, 3))
        return np.clip(grey(0 if at_s < 3 else at_s) + noise, 0, 255).astype(np.uint8)

    path = tmp_path / "light.mkv"
    path.write_bytes(made.video(5, picture=stop_and_go, format="matroska"))
    with RecordingReader(path, LIMITS) as reader:
        new = [each.time_s for each in reader.frames(0.0, 0.5) if each.jpeg is not None]
    assert new == pytest.approx([0.0, 3.0, 3.5, 4.0, 4.5], abs=0.21)


@pytest.mark.parametrize("format", ["mpegts", "matroska", "avi"])
def test_other_containers_are_read(tmp_path: Path, format: str) -> None:
    path = tmp_path / "recording"
    path.write_bytes(made.video(4, format=format))
    with RecordingReader(path, LIMITS) as reader:
        assert [each.time_s for each in reader.frames(2.0, 0.5)][:4] == pytest.approx([2, 2.5, 3, 3.5], abs=0.21)


@pytest.mark.parametrize("format", ["mov", "matroska"])
def test_a_preview_of_one_frame_is_not_the_video(tmp_path: Path, format: str) -> None:
    path = tmp_path / "recording"
    path.write_bytes(tracks(("mjpeg", 1, (320, 240), True), ("libx264", 20, (64, 48), True), kind=format))
    with RecordingReader(path, LIMITS) as reader:
        frames = list(reader.frames(0.0, 0.5))
        assert [each.time_s for each in frames] == pytest.approx([0, 0.5, 1, 1.5], abs=0.21)
        resumed = list(reader.frames(1.0, 0.5))
        assert [each.time_s for each in resumed] == pytest.approx([1, 1.5], abs=0.21)
        assert open_rgb(reader.frame(1.0)).size == (64, 48)


def test_a_recording_without_its_end_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    data = made.video(10, format="matroska")
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    with RecordingReader(tmp_path / "cut.mkv", LIMITS) as reader:
        times = [each.time_s for each in reader.frames(0.0, 0.5)]
    assert 4 < times[-1] < 9


@pytest.mark.parametrize("format", ["mp4", "matroska", "mpegts"])
@pytest.mark.parametrize("jumps_ms", [[100], [1200], [600, 1200, 1800]])
def test_a_jump_of_the_clock_is_no_length(tmp_path: Path, jumps_ms: list[int], format: str) -> None:
    times_ms = [time + HOUR * sum(time >= jump for jump in jumps_ms) for time in STEADY]
    (tmp_path / "jump").write_bytes(tracks(("libx264", 24, (64, 48), True), kind=format, times_ms=times_ms))
    with RecordingReader(tmp_path / "jump", LIMITS) as reader:
        times = [each.time_s for each in reader.frames(0.0, 0.5)]
        assert times[-1] == pytest.approx(2, abs=0.5) and reader.complete
        assert reader.about.seconds is None or reader.about.seconds == pytest.approx(2.4, abs=0.5)


@pytest.mark.parametrize("name", ["mp4 with its index first", "mov with its index first", "fragmented mp4 with sound"])
def test_what_is_whole_of_a_truncated_recording_is_read(tmp_path: Path, name: str) -> None:
    data = RECORDINGS[name]()
    (tmp_path / "cut").write_bytes(data[: len(data) * 3 // 4])
    with RecordingReader(tmp_path / "cut", LIMITS) as reader:
        assert [each.time_s for each in reader.frames(0.0, 0.5)][:4] == pytest.approx([0, 0.5, 1, 1.5], abs=0.21)


@pytest.mark.parametrize("format", ["mp4", "matroska"])
def test_a_time_behind_a_jump_of_the_clock_is_found(tmp_path: Path, format: str) -> None:
    jumps_ms = [(1000, 8_000), (2200, 7_000)]
    times_ms = [time + sum(length for jump, length in jumps_ms if time >= jump) for time in range(0, 4000, 100)]
    (tmp_path / "jump").write_bytes(tracks(("libx264", 40, (64, 48), True), kind=format, times_ms=times_ms))
    with RecordingReader(tmp_path / "jump", LIMITS) as reader:
        frames = {each.time_s: each.jpeg for each in reader.frames(0.0, 0.1)}
        for from_s in (0.5, 1.5, 3.0):
            resumed = {each.time_s: each.jpeg for each in reader.frames(from_s, 0.1)}
            assert resumed and resumed.keys() == {each for each in frames if each >= from_s}
            assert {each: jpeg for each, jpeg in resumed.items() if jpeg}.items() <= frames.items()


@pytest.mark.parametrize("name", sorted(RECORDINGS))
def test_a_missing_end_is_noticed(tmp_path: Path, name: str) -> None:
    data = RECORDINGS[name]()
    path = tmp_path / "recording"
    for share in (1.0, 0.75, 0.9):
        end = len(data) if share == 1 else int(len(data) * share) // 100 * 100 - 1
        path.write_bytes(data[:end])
        with RecordingReader(path, LIMITS) as reader:
            assert list(reader.frames(0.0, 0.5))
            assert reader.complete == (share == 1), f"{end} of {len(data)} bytes"


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    for name, data, message in (
        ("empty.mp4", b"", "empty"),
        ("text.mp4", b"no recording at all" * 100, "send"),
        ("cut.mp4", made.video(3)[:2000], "damaged, or was not finished"),
    ):
        (tmp_path / name).write_bytes(data)
        with RecordingReader(tmp_path / name, LIMITS) as reader, pytest.raises(MediaError, match=message):
            list(reader.frames(0.0, 0.5))
    with pytest.raises(MediaError, match=r"gone\.mp4 cannot be read: No such file"):
        RecordingReader(tmp_path / "gone.mp4", LIMITS)


def test_damage_ends_in_frames_or_a_clear_error(recording: Path, tmp_path: Path) -> None:
    whole, chance = recording.read_bytes(), random.Random(7)
    for number in range(12):
        data = bytearray(whole)
        for _ in range(30):
            at = chance.randrange(40, len(data))
            data[at : at + 4] = chance.randbytes(4)
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(data)
        with RecordingReader(path, LIMITS) as reader:
            try:
                times = [each.time_s for each in reader.frames(0.0, 0.5)]
                packets = reader.telemetry()
            except MediaError:
                continue
            assert times == sorted(times) and all(each.data for track in packets.values() for each in track)


def test_a_photo_has_its_position(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(made.photo(48.1, -11.5))
    (tmp_path / "b.jpg").write_bytes(made.photo(None, None))
    with RecordingReader(tmp_path / "a.jpg", LIMITS) as reader:
        position, jpeg = reader.photo()
        assert (position.latitude, position.longitude) == pytest.approx((48.1, -11.5), abs=1e-6)
        assert position.utc_s == made.START.timestamp() and position.local_s == made.START.timestamp()
        assert open_rgb(jpeg).size == (64, 48)
        with pytest.raises(UnsupportedMedia, match="is a photo; a recording is needed"):
            list(reader.frames(0.0, 0.5))
    with RecordingReader(tmp_path / "b.jpg", LIMITS) as reader:
        assert reader.photo()[0].latitude is None


def test_the_process_opens_no_files(recording: Path) -> None:
    with RecordingReader(recording, LIMITS, "tests.drives.curious_worker") as reader:
        with pytest.raises(MediaError, match="PermissionError: refused"):
            reader.frame(0.0)
        assert reader.lacks == () or os.uname().sysname != "Linux"
