"""Rendered drives: a recording, and the track of a receiver beside it."""

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from roadwork_serve.testbed.scenes.draw import draw
from roadwork_serve.testbed.scenes.drive_plan import DrivePlan
from roadwork_serve.testbed.scenes.plan import Scene
from roadwork_serve.testbed.scenes.truth import Truth

_DRAWN_FPS = 4.0  # drawing takes longest; each drawing is shown for several frames
_LEAST_S = 1e-3
_GPS_NOISE_M = 2.5


def drive_frame(plan: DrivePlan, time_s: float, scale: float = 1.0) -> Image.Image:
    """Return what the camera sees at a time of a drive."""
    metres, at_s = plan.metres_at(time_s), max(time_s, _LEAST_S)
    truth = Truth(plan.seed, "clip", False, "backbone", "none", (), ())
    scene = Scene(plan.seed, plan.camera, plan.conditions, plan.edges, plan.near(metres), truth, metres / at_s)
    return draw(scene, scale, at_s)


def render_drive(
    plan: DrivePlan,
    path: Path,
    fps: int = 24,
    scale: float = 1.0,
    created: dt.datetime | None = None,
    on_second: Callable[[], None] = lambda: None,
) -> None:
    """Write a drive as an H.264 MP4 with a key frame every two seconds."""
    import av  # slow to import, and needed for encoding alone

    with av.open(path, "w", format="mp4") as container:
        if created is not None:
            container.metadata["creation_time"] = f"{created.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%S}.000000Z"
        stream = container.add_stream(
            "libx264", rate=fps, options={"crf": "24", "preset": "ultrafast", "g": str(2 * fps)}
        )
        camera = plan.camera.at(scale)
        stream.width, stream.height, stream.pix_fmt = camera.width // 2 * 2, camera.height // 2 * 2, "yuv420p"
        drawn, picture = -1, None
        for number in range(round(plan.seconds * fps)):
            if (turn := int(number / fps * _DRAWN_FPS)) != drawn or picture is None:
                drawn, picture = turn, drive_frame(plan, turn / _DRAWN_FPS, scale)
            frame = av.VideoFrame.from_ndarray(np.asarray(picture)[: stream.height, : stream.width], format="rgb24")
            container.mux(stream.encode(frame))
            if number % fps == 0:
                on_second()
        container.mux(stream.encode())


def drive_gpx(plan: DrivePlan, start: dt.datetime, seed: int = 0) -> str:
    """Return the GPX of a receiver with one fix a second and errors of 2.5 m that wander."""
    points = "".join(
        f'<trkpt lat="{latitude:.7f}" lon="{longitude:.7f}"><time>'
        f"{(start + dt.timedelta(seconds=at)).astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}</time></trkpt>"
        for at, latitude, longitude in _fixes(plan, seed)
    )
    head = '<?xml version="1.0"?><gpx version="1.1" creator="roadwork" xmlns="http://www.topografix.com/GPX/1/1">'
    return f"{head}<trk><trkseg>{points}</trkseg></trk></gpx>\n"


def _fixes(plan: DrivePlan, seed: int) -> Iterator[tuple[int, float, float]]:
    rng = np.random.default_rng([plan.seed, 13, seed])
    error = np.zeros(2)
    degree = 111_195.08
    for at in range(int(plan.seconds) + 1):
        error = 0.95 * error + rng.normal(0, _GPS_NOISE_M * np.sqrt(1 - 0.95**2), 2)
        latitude, longitude = plan.place_at(plan.metres_at(at))
        yield at, latitude + error[1] / degree, longitude + error[0] / (degree * np.cos(np.radians(latitude)))
