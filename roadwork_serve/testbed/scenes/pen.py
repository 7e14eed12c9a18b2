"""Drawing in fractions of a sprite's box, with supersampled edges."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]
MAX_SIDE = 1400  # pixels a sprite is painted at; nearer things are enlarged from there


@lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's built-in scalable font at a size in pixels."""
    return ImageFont.load_default(size)


def shade(colour: Colour, factor: float) -> Colour:
    """Return the colour, darker (factor below 1) or lighter (above 1)."""
    r, g, b = (min(255, max(0, round(c * factor))) for c in colour)
    return r, g, b


class Pen:
    """Paints on a transparent sprite. Coordinates are fractions of its width and height, from the top left."""

    def __init__(self, image: Image.Image, rng: np.random.Generator) -> None:
        self.image = image
        self.draw = ImageDraw.Draw(image)
        self.w, self.h = image.size
        self.rng = rng

    def _xy(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self.w, y * self.h) for x, y in points]

    def poly(self, points: Sequence[Point], colour: Colour) -> None:
        """Draw a filled polygon."""
        self.draw.polygon(self._xy(points), fill=(*colour, 255))

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Draw a filled rectangle."""
        (ax, ay), (bx, by) = self._xy([(x0, y0), (x1, y1)])
        self.draw.rectangle((ax, ay, max(ax, bx), max(ay, by)), fill=(*colour, 255))

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Draw a disc. radius: fraction of the height."""
        r = radius * self.h
        self.draw.ellipse((x * self.w - r, y * self.h - r, x * self.w + r, y * self.h + r), fill=(*colour, 255))

    def oval(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Draw a filled ellipse in a box."""
        (ax, ay), (bx, by) = self._xy([(x0, y0), (x1, y1)])
        self.draw.ellipse((ax, ay, max(ax, bx), max(ay, by)), fill=(*colour, 255))

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draw a line. width: fraction of the height."""
        self.draw.line(self._xy(points), fill=(*colour, 255), width=max(1, round(width * self.h)), joint="curve")

    def ring(self, x: float, y: float, radius: float, width: float, colour: Colour) -> None:
        """Draw a circle outline. radius, width: fractions of the height."""
        r = radius * self.h
        box = (x * self.w - r, y * self.h - r, x * self.w + r, y * self.h + r)
        self.draw.ellipse(box, outline=(*colour, 255), width=max(1, round(width * self.h)))

    def text(self, lines: Sequence[str], box: tuple[float, float, float, float], colour: Colour) -> None:
        """Draw centred lines of bold capitals, as large as fits the box."""
        x0, y0, x1, y1 = box[0] * self.w, box[1] * self.h, box[2] * self.w, box[3] * self.h
        size = max(4, int((y1 - y0) / len(lines) * 0.95))
        widest = max(font(size).getbbox(line)[2] for line in lines)
        if widest > x1 - x0:
            size = max(4, int(size * (x1 - x0) / widest))
        step = size * 1.06
        top = (y0 + y1) / 2 - step * len(lines) / 2
        for i, line in enumerate(lines):
            self.draw.text(
                ((x0 + x1) / 2, top + step * (i + 0.5)),
                line,
                fill=(*colour, 255),
                font=font(size),
                anchor="mm",
                stroke_width=max(0, round(size / 26)),
                stroke_fill=(*colour, 255),
            )


def sprite(
    size: tuple[float, float], paint: Callable[[Pen], None], rng: np.random.Generator, over: int = 2
) -> Image.Image:
    """Paint at `over` times the resolution and reduce. size: width and height of the result, pixels."""
    w, h = max(1, round(size[0])), max(1, round(size[1]))
    shrink = min(1.0, MAX_SIDE / max(w, h))
    small = (max(1, round(w * shrink)), max(1, round(h * shrink)))
    over = over if max(small) < 500 else 1
    image = Image.new("RGBA", (small[0] * over, small[1] * over), (0, 0, 0, 0))
    paint(Pen(image, rng))
    if over > 1:
        image = _premultiplied_reduce(image, over)
    return image if small == (w, h) else image.resize((w, h))


def _premultiplied_reduce(image: Image.Image, factor: int) -> Image.Image:
    """Reduce with premultiplied alpha, so that transparent black does not darken the edges."""
    return image.convert("RGBa").reduce(factor).convert("RGBA")
