"""Weather, light, lens and compression effects."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from roadwork_serve.testbed.scenes.camera import Camera
from roadwork_serve.testbed.scenes.plan import Conditions

TILE = 256


@lru_cache(maxsize=1)
def _noise_tile() -> np.ndarray:
    return np.random.default_rng(72).normal(0, 1, (TILE, TILE, 3)).astype(np.float32)


def weather(image: Image.Image, conditions: Conditions, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """Apply fog, rain, snow and the light of the hour."""
    w, h = image.size
    pixels = np.asarray(image).astype(np.float32)
    gain = np.array(conditions.gain, np.float32)
    if conditions.light == "night":
        ys, xs = np.mgrid[0:h:8, 0:w:8].astype(np.float32)
        beam = np.exp(-(((xs / w - camera.centre) / 0.38) ** 2) - (((ys / h - 0.72) / 0.3) ** 2))
        lit = Image.fromarray((0.42 + 0.55 * beam).astype(np.float32)).resize((w, h), Image.Resampling.BILINEAR)
        pixels *= np.asarray(lit)[:, :, None]
    pixels *= gain
    if conditions.fog > 0:
        rows = np.arange(h, dtype=np.float32) / h - camera.horizon
        veil = conditions.fog * np.exp(-np.abs(rows) / np.where(rows > 0, 0.12, 0.35))[:, None, None]
        pixels += (np.array((206, 208, 212), np.float32) * min(1.0, float(gain.mean()) * 1.05) - pixels) * veil
    result = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if conditions.weather in ("rain", "snow"):
        draw = ImageDraw.Draw(result)
        flakes = conditions.weather == "snow"
        for x, y, size in rng.uniform(0, 1, (140, 3)):
            px, py, tone = x * w, y * h, 205 if flakes else 176
            if flakes:
                r = (0.6 + 1.6 * size) * w / 960
                draw.ellipse((px - r, py - r, px + r, py + r), fill=(tone + 30, tone + 30, tone + 32))
            else:
                draw.line((px, py, px - 0.004 * w, py + (0.01 + 0.02 * size) * h), fill=(tone, tone, tone + 4), width=1)
    return result


def lens(image: Image.Image, conditions: Conditions, rng: np.random.Generator) -> Image.Image:
    """Apply soft focus and sensor noise."""
    w, h = image.size
    if conditions.blur * w > 0.35:
        image = image.filter(ImageFilter.BoxBlur(1.2 * conditions.blur * w))
    if conditions.noise < 1.0:
        return image
    tile = np.roll(_noise_tile(), (int(rng.integers(TILE)), int(rng.integers(TILE))), (0, 1)) * conditions.noise
    reps = (-(-h // TILE), -(-w // TILE), 1)
    noise = np.tile(tile.astype(np.int16), reps)[:h, :w]
    return Image.fromarray(np.clip(np.asarray(image).astype(np.int16) + noise, 0, 255).astype(np.uint8))


def to_jpeg(image: Image.Image, quality: int) -> bytes:
    """Encode as JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()
