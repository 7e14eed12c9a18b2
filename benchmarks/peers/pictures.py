"""JPEGs of given sizes."""

import io
from collections.abc import Mapping
from functools import cache

import numpy as np
from PIL import Image

from roadwork_serve.testbed.scene_dataset import draw_scene

SEED = 9_501_000_000
COUNT = 16  # of each size
SIZES: Mapping[str, tuple[int, tuple[int, int]]] = {  # bytes, pixels
    "50 kB": (50_000, (640, 480)),
    "300 kB": (300_000, (1280, 960)),
    "3 MB": (3_000_000, (4000, 3000)),
}


@cache
def pictures(size: str, count: int = COUNT) -> tuple[bytes, ...]:
    """Return rendered scenes, enlarged, with sensor noise, at the quality that comes closest to the size."""
    size_bytes, pixels = SIZES[size]
    return tuple(_encode_to_size(size_bytes, _render(index, pixels)) for index in range(count))


def _render(index: int, pixels: tuple[int, int]) -> Image.Image:
    scene = Image.open(io.BytesIO(draw_scene(SEED + index, "photo").data)).convert("RGB")
    large = np.asarray(scene.resize(pixels, Image.Resampling.BICUBIC), np.float32)
    noise = np.random.default_rng(index).normal(0, 5.0, (*large.shape[:2], 1))
    return Image.fromarray((large + noise).clip(0, 255).astype(np.uint8))


def _encode_to_size(size_bytes: int, image: Image.Image) -> bytes:
    candidates = [_encode(image, quality) for quality in range(50, 97, 5)]
    return min(candidates, key=lambda data: abs(len(data) - size_bytes))


def _encode(image: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()
