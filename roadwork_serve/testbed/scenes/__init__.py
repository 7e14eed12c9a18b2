"""Rendered road scenes: seeded photos and clips with ground truth, drawn with Pillow and numpy only."""

import io
import math
from dataclasses import dataclass, replace

from PIL import Image

from roadwork_serve.testbed.scenes.draw import draw
from roadwork_serve.testbed.scenes.effects import to_jpeg
from roadwork_serve.testbed.scenes.scenarios import clip_scene, photo_scene
from roadwork_serve.testbed.scenes.truth import Thing, Truth

CLIP_FPS = 8.0
CLIP_FRAMES = 16
WITH_ARMS = ("worker", "excavator")

__all__ = ["CLIP_FPS", "CLIP_FRAMES", "Moment", "RenderedClip", "RenderedPhoto", "Thing", "Truth", "clip",
           "clip_frame", "clip_moments", "photo"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class RenderedPhoto:
    """A photo with its ground truth."""

    truth: Truth
    image: Image.Image
    #: JPEG quality.
    quality: int

    def jpeg(self) -> bytes:
        """Return the photo as a JPEG of the scene's own quality."""
        return to_jpeg(self.image, self.quality)


@dataclass(frozen=True, slots=True)
class RenderedClip:
    """The frames of a clip with their times in seconds and the ground truth."""

    truth: Truth
    frames: tuple[Image.Image, ...]
    timestamps_s: tuple[float, ...]
    fps: float

    def mp4(self) -> bytes:
        """Return the frames as an H.264 MP4."""
        import av  # slow to import, and needed for encoding alone

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
    """The content of one frame of a clip."""

    things: tuple[Thing, ...]
    #: How far the arm of each thing is raised, -1 to 1; None for things without an arm.
    swings: tuple[float | None, ...]


def photo(seed: int, scale: float = 1.0) -> RenderedPhoto:
    """Render the photo of a seed (0 or greater). scale: factor on its full size, which is 640x480 to 1280x960."""
    scene = photo_scene(seed)
    return RenderedPhoto(scene.truth, draw(scene, scale), scene.conditions.quality)


def clip_frame(seed: int, at_s: float, scale: float = 1.0) -> RenderedPhoto:
    """Render one frame of a seed's clip, with the ground truth of the whole clip."""
    scene = clip_scene(seed)
    return RenderedPhoto(scene.truth, draw(scene, scale, at_s), scene.conditions.quality)


def clip(seed: int, scale: float = 1.0, frames: int = CLIP_FRAMES) -> RenderedClip:
    """Render the two-second clip of a seed (0 or greater), 640x480 at scale 1.

    frames: number of evenly spaced frames; fewer than 16 when the clip will only be sampled.
    """
    scene = clip_scene(seed)
    times = _times(frames)
    return RenderedClip(
        scene.truth, tuple(draw(scene, scale, t) for t in times), times, frames / (CLIP_FRAMES / CLIP_FPS)
    )


def clip_moments(seed: int, frames: int = CLIP_FRAMES) -> tuple[Moment, ...]:
    """Return the content of each frame of a seed's clip, without drawing it."""
    scene = clip_scene(seed)
    objects = sorted(scene.objects, key=lambda a: -a.z)
    moments = []
    for at_s in _times(frames):
        things, swings = [], []
        for item, thing in zip(objects, scene.truth.things, strict=True):
            if box := item.box(scene.camera, scene.ego_speed * at_s, at_s):
                things.append(replace(thing, box=scene.camera.share(box)))
                swings.append(math.sin(2 * math.pi * item.phase_at(at_s)) if item.painter in WITH_ARMS else None)
        moments.append(Moment(tuple(things), tuple(swings)))
    return tuple(moments)


def _times(frames: int) -> tuple[float, ...]:
    step = CLIP_FRAMES / CLIP_FPS / frames
    return tuple(round(i * step, 4) for i in range(frames))
