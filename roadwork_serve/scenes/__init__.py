"""The test track: seeded road scenes and clips whose truth is known, drawn with Pillow and numpy only."""

import io
from dataclasses import dataclass

from PIL import Image

from roadwork_serve.scenes.deck import stage_clip, stage_still
from roadwork_serve.scenes.draw import draw
from roadwork_serve.scenes.truth import Thing, Truth
from roadwork_serve.scenes.wear import to_jpeg

CLIP_FPS = 8.0
CLIP_FRAMES = 16

__all__ = ["CLIP_FPS", "CLIP_FRAMES", "RenderedClip", "RenderedPhoto", "Thing", "Truth", "clip", "clip_frame", "photo"]


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
    step = CLIP_FRAMES / CLIP_FPS / frames
    times = tuple(round(i * step, 4) for i in range(frames))
    return RenderedClip(
        scene.truth, tuple(draw(scene, scale, t) for t in times), times, frames / (CLIP_FRAMES / CLIP_FPS)
    )
