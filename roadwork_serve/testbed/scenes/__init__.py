"""The test track: seeded road scenes and clips whose truth is known, drawn with Pillow and numpy only."""

import io
import math
from dataclasses import dataclass, replace

from PIL import Image

from roadwork_serve.testbed.scenes.deck import stage_clip, stage_still
from roadwork_serve.testbed.scenes.draw import draw
from roadwork_serve.testbed.scenes.truth import Thing, Truth
from roadwork_serve.testbed.scenes.wear import to_jpeg

CLIP_FPS = 8.0
CLIP_FRAMES = 16
WITH_ARMS = ("worker", "excavator")

__all__ = ["CLIP_FPS", "CLIP_FRAMES", "Moment", "RenderedClip", "RenderedPhoto", "Thing", "Truth", "clip",
           "clip_frame", "clip_moments", "photo"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class RenderedPhoto:
    """A still with its truth. quality: of its JPEG."""

    truth: Truth
    image: Image.Image
    quality: int

    def jpeg(self) -> bytes:
        """The still as a JPEG of the scene's own quality."""
        return to_jpeg(self.image, self.quality)


@dataclass(frozen=True, slots=True)
class RenderedClip:
    """Frames with their times in seconds and their truth."""

    truth: Truth
    frames: tuple[Image.Image, ...]
    timestamps_s: tuple[float, ...]
    fps: float

    def mp4(self) -> bytes:
        """The frames as an H.264 MP4."""
        import av  # only who encodes pays for the import

        out = io.BytesIO()
        with av.open(out, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=round(self.fps), options={"crf": "20", "preset": "veryfast"})
            stream.width, stream.height = self.frames[0].size
            stream.pix_fmt = "yuv420p"
            for image in self.frames:
                container.mux(stream.encode(av.VideoFrame.from_image(image)))
            container.mux(stream.encode())
        return out.getvalue()


@dataclass(frozen=True, slots=True)
class Moment:
    """What one frame of a clip shows. swings: how far the arm of each thing is raised, -1 to 1; None without one."""

    things: tuple[Thing, ...]
    swings: tuple[float | None, ...]


def photo(seed: int, scale: float = 1.0) -> RenderedPhoto:
    """The still of a seed (0 or greater). scale: of its full size, which is 640x480 to 1280x960."""
    scene = stage_still(seed)
    return RenderedPhoto(scene.truth, draw(scene, scale), scene.look.quality)


def clip_frame(seed: int, at_s: float, scale: float = 1.0) -> RenderedPhoto:
    """One frame of a seed's clip, with the truth of the whole clip: what a single look at it could know."""
    scene = stage_clip(seed)
    return RenderedPhoto(scene.truth, draw(scene, scale, at_s), scene.look.quality)


def clip(seed: int, scale: float = 1.0, frames: int = CLIP_FRAMES) -> RenderedClip:
    """The two-second clip of a seed (0 or greater), 640x480 at scale 1.

    frames: how many, evenly spread; fewer than 16 for those who would only sample it anyway.
    """
    scene = stage_clip(seed)
    times = _times(frames)
    return RenderedClip(
        scene.truth, tuple(draw(scene, scale, t) for t in times), times, frames / (CLIP_FRAMES / CLIP_FPS)
    )


def clip_moments(seed: int, frames: int = CLIP_FRAMES) -> tuple[Moment, ...]:
    """What each of these frames of a seed's clip shows and where, undrawn."""
    scene = stage_clip(seed)
    actors = sorted(scene.actors, key=lambda a: -a.z)
    moments = []
    for at_s in _times(frames):
        things, swings = [], []
        for actor, thing in zip(actors, scene.truth.things, strict=True):
            if box := actor.box(scene.camera, scene.ego_speed * at_s, at_s):
                things.append(replace(thing, box=scene.camera.share(box)))
                swings.append(math.sin(2 * math.pi * actor.phase_at(at_s)) if actor.painter in WITH_ARMS else None)
        moments.append(Moment(tuple(things), tuple(swings)))
    return tuple(moments)


def _times(frames: int) -> tuple[float, ...]:
    step = CLIP_FRAMES / CLIP_FPS / frames
    return tuple(round(i * step, 4) for i in range(frames))
