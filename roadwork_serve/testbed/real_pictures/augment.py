"""Augmentation of training pictures: framing, then light, weather, lens and compression."""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Boxes = list[list[float]]


@dataclass(frozen=True)
class Framing:
    """A crop in shares of the picture, and whether it is mirrored. Both sides of a pair share one."""

    x0: float
    y0: float
    x1: float
    y1: float
    flip: bool

    @classmethod
    def draw(cls, rng: np.random.Generator, least: float = 0.86) -> "Framing":
        """Draw a crop of at least this share of each side."""
        w, h = rng.uniform(least, 1), rng.uniform(least, 1)
        x, y = rng.uniform(0, 1 - w), rng.uniform(0, 1 - h)
        return cls(x, y, x + w, y + h, bool(rng.random() < 0.5))

    def pixels(self, image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
        """Crop, mirror and resize to a square, antialiased."""
        h, w = image.shape[:2]
        cut = image[int(self.y0 * h) : int(np.ceil(self.y1 * h)), int(self.x0 * w) : int(np.ceil(self.x1 * w))]
        how = cv2.INTER_AREA if cut.shape[0] > side else cv2.INTER_LINEAR
        small = np.asarray(cv2.resize(cut, (side, side), interpolation=how), np.uint8)
        return small[:, ::-1] if self.flip else small

    def grid(self, values: NDArray[np.float32], cells: int) -> NDArray[np.float32]:
        """Crop and mirror a square map [side * side, channels] to [cells * cells, channels]."""
        side = round(values.shape[0] ** 0.5)
        at = [
            (np.arange(cells) + 0.5) / cells * (high - low) + low
            for low, high in ((self.y0, self.y1), (self.x0, self.x1))
        ]
        ys, xs = (np.clip((a * side).astype(np.int64), 0, side - 1) for a in at)
        if self.flip:
            xs = xs[::-1]
        return values.reshape(side, side, -1)[ys[:, None], xs[None, :]].reshape(cells * cells, -1)

    def boxes(self, boxes: Boxes) -> Boxes:
        """Move boxes along; those outside are dropped."""
        moved = []
        for kind, x0, y0, x1, y1 in boxes:
            xs = [(x - self.x0) / (self.x1 - self.x0) for x in (x0, x1)]
            ys = [(y - self.y0) / (self.y1 - self.y0) for y in (y0, y1)]
            if self.flip:
                xs = [1 - xs[1], 1 - xs[0]]
            inside = [min(max(v, 0.0), 1.0) for v in (xs[0], ys[0], xs[1], ys[1])]
            if inside[2] - inside[0] > 0.004 and inside[3] - inside[1] > 0.004:
                moved.append([kind, *inside])
        return moved


def weather(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change light, weather, lens and compression. The same generator state changes two pictures alike."""
    side = image.shape[0]
    x = image.astype(np.float32)
    x = x * rng.uniform(0.75, 1.25) + rng.uniform(-18, 18)
    if rng.random() < 0.5:
        x = x * rng.uniform(0.86, 1.14, (1, 1, 3)).astype(np.float32)
    if rng.random() < 0.5:
        grey = x.mean(2, keepdims=True)
        x = grey + (x - grey) * (0.0 if rng.random() < 0.12 else float(rng.uniform(0.4, 1.4)))
    if rng.random() < 0.3:
        middle = x.mean()
        x = middle + (x - middle) * float(rng.uniform(0.6, 1.3))
    if rng.random() < 0.16:
        veil = np.linspace(float(rng.uniform(0.3, 0.75)), float(rng.uniform(0.05, 0.4)), side, dtype=np.float32)
        x = x + (float(rng.uniform(150, 235)) - x) * veil[:, None, None]
    x = np.clip(x, 0, 255)
    if rng.random() < 0.35:
        x = 255 * (x / 255) ** float(np.exp(rng.uniform(-0.5, 0.6)))
    if rng.random() < 0.1:
        x = 255 * (x / 255) ** float(rng.uniform(1.6, 2.6)) * float(rng.uniform(0.5, 0.9))
        x = x * np.array((1.0, 0.95, rng.uniform(0.7, 1.15)), np.float32)
    if rng.random() < 0.2:
        small = max(24, int(side * rng.uniform(0.35, 0.75)))
        x = cv2.resize(cv2.resize(x, (small, small), interpolation=cv2.INTER_AREA), (side, side))
    elif rng.random() < 0.2:
        x = cv2.GaussianBlur(x, (0, 0), float(rng.uniform(0.4, 1.4)))
    if rng.random() < 0.2:
        noise = np.random.default_rng(int(rng.integers(2**31))).normal(0, rng.uniform(3, 14), x.shape)
        x = x + noise.astype(np.float32)
    worn = np.clip(x, 0, 255).astype(np.uint8)
    return jpeg(worn, int(rng.integers(18, 75))) if rng.random() < 0.25 else worn


def jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """One pass of JPEG."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=quality)
    return np.asarray(Image.open(out).convert("RGB"))
