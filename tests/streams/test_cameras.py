"""Cameras of the tests are read, lost and found again."""

import asyncio
import io
import os
import shutil
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from roadwork_serve.errors import ConfigError, ServerUnreachable
from roadwork_serve.media import open_rgb
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.schema import Verdict
from roadwork_serve.streams.camera import Camera, CameraLost, Picture, camera_address
from roadwork_serve.streams.events import Event, EventDetector
from roadwork_serve.streams.folder_camera import FolderCamera
from roadwork_serve.streams.stream_camera import StreamCamera
from roadwork_serve.streams.stream_worker import Lag
from roadwork_serve.streams.watch import Watch, WatchCounts
from tests.drives.test_run import ByBrightness
from tests.streams import live

LIMITS = MediaLimits()
DARK, BRIGHT = 40, 220


def next_picture(camera: Camera, wait_s: float = 30.0) -> Picture:
    give_up_at = time.monotonic() + wait_s
    while (picture := camera.newest(1.0)) is None:
        assert time.monotonic() < give_up_at
    return picture


def lost(url: str) -> str:
    """Return why a camera gives no picture."""
    with pytest.raises(CameraLost) as caught, closing(StreamCamera(url, "gate", LIMITS)) as camera:
        next_picture(camera)
    return str(caught.value)


def brightness(picture: Picture) -> float:
    return float(np.asarray(open_rgb(picture.data)).mean())


def jpeg(level: int) -> bytes:
    Image.fromarray(live.picture(level)).save(file := io.BytesIO(), "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("kind", ["mpegts", "mjpeg", "rtsp"])
def test_the_newest_picture_of_a_stream(kind: str) -> None:
    began_s = time.time()

    def level(at_s: float) -> int:
        return 40 + min(200, int(20 * (at_s - began_s)))

    if kind == "rtsp":
        opened = live.rtsp_camera(level)
    else:
        opened = live.HttpCamera(level, kind)
    with opened as server:
        camera = StreamCamera(server if isinstance(server, str) else server.url, "gate", LIMITS)
        try:
            assert camera.lacks == ()
            for _ in range(4):
                picture = next_picture(camera)
                assert picture.at_s == pytest.approx(time.time(), abs=2) and picture.lag_s < 2
                assert brightness(picture) == pytest.approx(level(time.time()), abs=40)  # two seconds
                time.sleep(0.7)  # a verdict takes time; what comes meanwhile is left out
        finally:
            camera.close()
    assert not psutil.Process().children()


def test_a_stream_that_ends_fails_or_is_none_is_lost() -> None:
    with live.HttpCamera(lambda _: DARK) as server:
        camera = StreamCamera(server.url, "gate", LIMITS)
        next_picture(camera)
        server.cut()
        with pytest.raises(CameraLost, match="the stream ended"):
            for _ in range(100):
                next_picture(camera)
        camera.close()
    assert lost(server.url) == "the camera cannot be reached (ConnectError)"
    with live.HttpCamera(lambda _: DARK, status=401) as server:
        assert lost(server.url) == "the camera answers 401"
    with live.HttpCamera(lambda _: DARK, "html") as server:
        assert "cannot be read" in lost(server.url)
    assert "cannot be read" in lost("rtsp://127.0.0.1:9/live")
    assert not psutil.Process().children()


def test_a_process_that_is_killed_loses_the_camera_and_no_more() -> None:
    with live.HttpCamera(lambda _: DARK) as server:
        camera = StreamCamera(server.url, "gate", LIMITS)
        next_picture(camera)
        psutil.Process().children()[0].kill()
        with pytest.raises(CameraLost):
            for _ in range(100):
                next_picture(camera)
        camera.close()


def test_new_files_of_a_folder_come_once_and_complete(tmp_path: Path) -> None:
    (tmp_path / "old.jpg").write_bytes(jpeg(DARK))
    time.sleep(0.1)
    camera = FolderCamera(tmp_path, LIMITS)
    assert camera.newest(0.1) is None
    data = jpeg(BRIGHT)
    with (tmp_path / "growing.jpg").open("wb") as file:
        for at in range(3):
            file.write(data[len(data) * at // 4 : len(data) * (at + 1) // 4])
            file.flush()
            assert camera.newest(0.3) is None, "it is not complete"
        file.write(data[len(data) * 3 // 4 :])
    picture = next_picture(camera)
    assert (picture.name, picture.data) == ("growing.jpg", data) and picture.lag_s < 2
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / f".{name}").write_bytes(data)
        os.rename(tmp_path / f".{name}", tmp_path / name)
        time.sleep(0.02)
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "link.jpg").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert [next_picture(camera).name for _ in range(2)] == ["a.jpg", "b.jpg"]
    assert camera.newest(1.0) is None and camera.dropped == 0
    assert camera.newest(2.5) is None
    (tmp_path / "a.jpg").write_bytes(jpeg(DARK))
    assert next_picture(camera).data == jpeg(DARK), "the same name with another content is new"
    (tmp_path / "clip.ts").write_bytes(b"G" + bytes(187))
    with (tmp_path / "clip.ts").open("ab") as file:
        for _ in range(20):
            file.write((b"G" + bytes(187)) * 10)
            file.flush()
            assert camera.newest(0.1) is None, "it grows"
    clip = next_picture(camera)
    assert clip.name == "clip.ts" and len(clip.data) == 188 * 201


def test_a_folder_that_fills_too_fast_gives_the_newest(tmp_path: Path) -> None:
    camera = FolderCamera(tmp_path, MediaLimits(max_bytes=100_000))
    for number in range(10):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(BRIGHT))
        time.sleep(0.01)
    time.sleep(2.5)
    assert next_picture(camera).name == "9.jpg" and camera.dropped == 9
    assert camera.newest(0.1) is None
    (tmp_path / "large.jpg").write_bytes(jpeg(BRIGHT) + bytes(100_000))
    assert camera.newest(3.5) is None and camera.dropped == 10
    os.utime(tmp_path / "9.jpg", (1, 1))
    (tmp_path / "9.jpg").chmod(0o600)
    assert camera.newest(1.0) is None, "another time or mode is no other content"


def test_a_folder_may_go_and_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "camera"
    folder.mkdir()
    camera = FolderCamera(folder, LIMITS)
    assert camera.newest(0.1) is None
    shutil.rmtree(folder)
    with pytest.raises(CameraLost, match="No such file"):
        camera.newest(0.1)
    folder.mkdir()
    (folder / "new.jpg").write_bytes(jpeg(DARK))
    assert next_picture(camera).name == "new.jpg"


async def test_a_stream_with_road_work_that_is_cut_gives_each_event_once() -> None:
    """Road work from second 2 to 10; the stream is cut at second 5."""
    found: list[tuple[float, Event]] = []
    said: list[str] = []
    counts = WatchCounts()
    began_s = time.time()

    def level(at_s: float) -> int:
        return BRIGHT if 2 <= at_s - began_s < 10 else DARK

    with live.HttpCamera(level) as server:
        watch = Watch(
            lambda: StreamCamera(server.url, "gate", LIMITS), ByBrightness(), EventDetector("gate", every_s=3),
            lambda event: found.append((time.time(), event)), said.append, 0.3, counts,
        )  # fmt: skip
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(5)
        server.cut()
        await asyncio.sleep(11)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    kinds = [event.event for _, event in found]
    assert kinds[0] == "began" and kinds[-1] == "ended" and set(kinds[1:-1]) <= {"ongoing"}
    assert len({event.id for _, event in found}) == 1
    assert found[0][0] - began_s == pytest.approx(4, abs=3) and found[-1][0] - began_s == pytest.approx(12, abs=3)
    assert [each.partition(";")[0] for each in said] == [
        "gate: the stream ended",
        "gate: pictures and verdicts come again",
    ]
    assert counts.oldest_s < 5, "pictures do not pile up"
    assert counts.pictures > 20 and counts.unanswered == 0 and str(counts.pictures) in str(counts)
    assert not psutil.Process().children()


def lags(*packets: tuple[float, float]) -> list[float]:
    lag = Lag()
    return [lag.of(now_s, stamp_s) for now_s, stamp_s in packets]


def test_what_piles_up_is_lag_and_a_new_clock_is_none() -> None:
    steady = [(100 + at / 10, at / 10) for at in range(50)]
    assert max(lags(*steady)) < 0.01
    late = [(115.0, 5 + at / 10) for at in range(50)]  # ten seconds of silence, then all at once
    assert lags(*steady, *late)[50] == pytest.approx(10) and lags(*steady, *late)[-1] == pytest.approx(5.1)
    for stamp_s in (0.0, 3.0, 95_000.0):  # the encoder starts again, or jumps ahead
        again = [(105 + at / 10, stamp_s + at / 10) for at in range(50)]
        assert max(lags(*steady, *again)) < 0.01


class Broken:
    """A cascade that cannot be reached at first."""

    def __init__(self, times: int) -> None:
        self.left, self.names = times, list[str]()

    async def __call__(self, data: bytes, name: str) -> Verdict:
        self.names.append(name)
        self.left -= 1
        if self.left >= 0:
            raise ServerUnreachable("nothing listens")
        return await ByBrightness()(data, name)


async def test_a_file_waits_for_the_server_and_an_event_for_the_disk(tmp_path: Path) -> None:
    said: list[str] = []
    emitted: list[Event] = []
    full = iter([True, True])

    def emit(event: Event) -> None:
        if next(full, False):
            raise OSError(28, "No space left on device")
        emitted.append(event)

    camera, cascade = FolderCamera(tmp_path, LIMITS), Broken(2)
    task = asyncio.create_task(Watch(lambda: camera, cascade, EventDetector("gate"), emit, said.append).run())
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(BRIGHT))
        await asyncio.sleep(0.05)
    await live.until(lambda: emitted)
    task.cancel()
    await asyncio.wait([task])
    assert cascade.names[:3] == ["0.jpg"] * 3 and len(emitted) == 1
    assert "nothing listens; trying again" in said[0]
    assert any("an event cannot be written" in each for each in said)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://host/x", "begins with http://"),
        ("file:///etc/passwd", "begins with http://"),
        ("http://", "no valid host"),
        ("rtsp://host:99999/", "no valid host"),
        ("/nowhere", "no folder and no URL"),
        ("/dev/video9", "ffmpeg -f v4l2 -i /dev/video9"),
    ],
)
def test_what_is_no_camera_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        camera_address(text)


def test_names_have_no_password(tmp_path: Path) -> None:
    assert camera_address("rtsp://user:secret@host:8554/a?token=secret#x").name == "rtsp://host:8554/a"
    assert camera_address(str(tmp_path)).name == str(tmp_path)
