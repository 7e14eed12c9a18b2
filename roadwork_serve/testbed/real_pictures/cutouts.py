"""Objects to paste: cut from boxed pictures by GrabCut, or drawn by the scene renderer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from roadwork_serve.testbed.real_pictures.sources import EVIDENCE, Picture
from roadwork_serve.testbed.scenes.pen import Pen, sprite
from roadwork_serve.testbed.scenes.signs import PHRASES, SIGN_COLOURS, Board, paint_board
from roadwork_serve.testbed.scenes.things import PAINTERS

MIN_SIZE = (10, 24)  # pixels of width and height below which a box gives no useful cutout
# Heights in metres, of real cutouts by kind.
HEIGHT_M = {"cone": (0.6, 1.0), "machine": (2.4, 3.2), "worker": (1.6, 1.9), "sign": (1.6, 2.6),
            "car": (1.4, 1.8), "lorry": (2.8, 3.4)}  # fmt: skip
RENDERED_WORKS = {
    "cone": "cone", "barrel": "cone", "barrier": "cone", "arrow_board": "sign", "worker": "worker",
    "excavator": "machine", "roller": "machine",
}  # fmt: skip
RENDERED_OTHERS = ("cyclist", "pedestrian", "car", "lorry", "lorry_with_cones", "low_loader", "parked_cones", "bin")
WORK_SIGNS = ("sign_begin", "sign_closure", "sign_detour", "sign_worker")
OTHER_SIGNS = ("sign_end", "sign_neutral")


@dataclass(frozen=True)
class Cutout:
    """An RGBA picture that stands on its lower edge."""

    image: Image.Image
    #: A class of EVIDENCE, or "" for no sign of works.
    kind: str
    #: Smallest and largest height of the real object, metres.
    height_m: tuple[float, float]
    #: True if it shows words worth reading.
    words: bool = False
    #: Group of the picture that it was cut from; "" for rendered ones.
    group: str = ""


def cut_out(picture: Picture) -> list[Cutout]:
    """Cut every box of a picture that is large enough and whose mask looks like an object."""
    pixels = np.asarray(picture.image)
    h, w = pixels.shape[:2]
    found = []
    for box in picture.boxes or ():
        x0, y0, x1, y1 = (round(v) for v in (box.x0 * w, box.y0 * h, box.x1 * w, box.y1 * h))
        if x1 - x0 < MIN_SIZE[0] or y1 - y0 < MIN_SIZE[1] or min(x0, y0) < 1 or x1 > w - 1 or y1 > h - 1:
            continue  # touching the frame: most likely cut off by it
        mask = object_mask(pixels, (x0, y0, x1, y1))
        if mask is None or (box.kind == "cone" and (y1 - y0) < 1.15 * (x1 - x0)):
            continue  # no mask, or a cone that lies on its side
        rgba = np.dstack([pixels[y0:y1, x0:x1], mask])
        kind = box.kind if box.kind in EVIDENCE else ""
        found.append(Cutout(Image.fromarray(rgba), kind, HEIGHT_M[box.kind], group=picture.group))
    return found


def object_mask(pixels: NDArray[np.uint8], box: tuple[int, int, int, int]) -> NDArray[np.uint8] | None:
    """Segment the object in a box with GrabCut: alpha [h, w] of the box, None where the result is implausible."""
    x0, y0, x1, y1 = box
    w, h = x1 - x0, y1 - y0
    pad_x, pad_y = max(4, w // 2), max(4, h // 3)
    left, top = max(0, x0 - pad_x), max(0, y0 - pad_y)
    area = np.ascontiguousarray(pixels[top : y1 + pad_y, left : x1 + pad_x, ::-1])
    mask = np.zeros(area.shape[:2], np.uint8)
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(
            area, mask, (x0 - left, y0 - top, w, h), np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_RECT
        )
    except cv2.error:
        return None
    inside = ((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD))[y0 - top : y1 - top, x0 - left : x1 - left]
    alpha = inside.astype(np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(alpha)
    if count < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    alpha = (parts == largest).astype(np.uint8)
    share = float(alpha.mean())
    tall = float(stats[largest, cv2.CC_STAT_HEIGHT]) / h
    if not 0.2 < share < 0.97 or tall < 0.7:
        return None
    return cv2.GaussianBlur(alpha * 255, (3, 3), 0.7)


def rendered_works(rng: np.random.Generator) -> Cutout:
    """Draw a cone, drum, barrier, arrow board, worker, machine or work sign."""
    if rng.random() < 0.15:
        return _rendered_sign(rng, WORK_SIGNS, "sign")
    name = str(rng.choice(list(RENDERED_WORKS), p=(0.25, 0.2, 0.15, 0.05, 0.15, 0.12, 0.08)))
    return _rendered(rng, name, RENDERED_WORKS[name])


def rendered_other(rng: np.random.Generator) -> Cutout:
    """Draw something that is no sign of works: traffic, passers-by, bins, carried or parked cones, other boards."""
    if rng.random() < 0.2:
        return _rendered_sign(rng, OTHER_SIGNS, "")
    return _rendered(rng, str(rng.choice(RENDERED_OTHERS)), "")


def _rendered(rng: np.random.Generator, name: str, kind: str) -> Cutout:
    shape, paint = PAINTERS[name]
    style = np.random.default_rng(rng.integers(2**31))
    tall = 160.0
    painter: Callable[[Pen], None] = lambda pen: paint(pen, float(style.random()))  # noqa: E731
    return Cutout(sprite((tall * shape.aspect, tall), painter, style), kind, shape.height_m)


def _rendered_sign(rng: np.random.Generator, names: Sequence[str], kind: str) -> Cutout:
    name = str(rng.choice(names))
    lines = PHRASES[name][int(rng.integers(len(PHRASES[name])))]
    palettes = ["work"] if name != "sign_neutral" else [p for p in SIGN_COLOURS if p != "work"]
    palette = SIGN_COLOURS[str(rng.choice(palettes))]
    colour, ink = palette[int(rng.integers(len(palette)))]
    board = Board("diamond" if rng.random() < 0.5 else "board", lines, colour, ink, float(rng.uniform(0.35, 0.5)))
    style = np.random.default_rng(rng.integers(2**31))
    image = sprite((180.0 * board.aspect, 180.0), lambda pen: paint_board(board, pen), style)
    return Cutout(image, kind, (2.0, 3.2), words=True)


def recoloured_patch(image: Image.Image, rng: np.random.Generator) -> Cutout:
    """Cut a blob of a picture without works and tint it orange, yellow or red: colour alone is no sign of works."""
    w, h = image.size
    pw, ph = (int(v * rng.uniform(0.08, 0.25)) + 8 for v in (w, h))
    x, y = int(rng.integers(max(1, w - pw))), int(rng.integers(max(1, h - ph)))
    patch = np.asarray(image.crop((x, y, x + pw, y + ph)))
    hsv = cv2.cvtColor(patch, cv2.COLOR_RGB2HSV).astype(np.int32)
    hsv[..., 0] = int(rng.integers(0, 30))
    hsv[..., 1] = np.clip(hsv[..., 1] // 2 + int(rng.integers(90, 200)), 0, 255)
    hsv[..., 2] = np.clip(hsv[..., 2] + int(rng.integers(20, 90)), 0, 255)
    rgb = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    mask = np.zeros(rgb.shape[:2], np.uint8)
    shape = rng.integers(3)
    if shape == 0:
        cv2.ellipse(mask, (pw // 2, ph // 2), (pw // 2 - 1, ph // 2 - 1), 0, 0, 360, 255, -1)
    elif shape == 1:
        cv2.rectangle(mask, (1, 1), (pw - 2, ph - 2), 255, -1)
    else:
        points = np.column_stack([rng.integers(0, pw, 6), rng.integers(0, ph, 6)]).astype(np.int32)
        cv2.fillConvexPoly(mask, cv2.convexHull(points), 255)
    return Cutout(Image.fromarray(np.dstack([rgb, cv2.GaussianBlur(mask, (3, 3), 0.7)])), "", (0.5, 1.8))


def tinted_in_place(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Tint a part of a picture orange, yellow or red where it is, as a taxi, a wall or a lorry may be."""
    pixels = np.asarray(image)
    h, w = pixels.shape[:2]
    mask = np.zeros((h, w), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        centre = (int(rng.uniform(0.05, 0.95) * w), int(rng.uniform(0.35, 0.9) * h))
        axes = (int(rng.uniform(0.03, 0.2) * w), int(rng.uniform(0.03, 0.16) * h))
        cv2.ellipse(mask, centre, axes, float(rng.uniform(-20, 20)), 0, 360, 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), float(rng.uniform(1, 5)))[..., None]
    hsv = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2HSV).astype(np.int32)
    hsv[..., 0] = int(rng.integers(0, 30))
    hsv[..., 1] = np.clip(hsv[..., 1] // 2 + int(rng.integers(80, 190)), 0, 255)
    hsv[..., 2] = np.clip(hsv[..., 2] + int(rng.integers(0, 80)), 0, 255)
    tinted = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    return Image.fromarray((pixels * (1 - mask) + tinted * mask).astype(np.uint8))


def tinted(cutout: Cutout, rng: np.random.Generator) -> Cutout:
    """Return the same object in another paint: yellow, orange, red or any hue."""
    rgba = np.asarray(cutout.image)
    hsv = cv2.cvtColor(np.ascontiguousarray(rgba[..., :3]), cv2.COLOR_RGB2HSV).astype(np.int32)
    lit = hsv[..., 2] > 60  # windows and tyres stay dark
    hsv[..., 0] = int(rng.integers(0, 32)) if rng.random() < 0.7 else int(rng.integers(0, 180))
    hsv[..., 1] = np.where(lit, np.clip(hsv[..., 1] // 2 + int(rng.integers(90, 200)), 0, 255), hsv[..., 1])
    rgb = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    return replace(cutout, image=Image.fromarray(np.dstack([rgb, rgba[..., 3]])))


def night_lights(image: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Turn a picture into a night scene, without and with red, yellow and white lights of traffic and lamps."""
    pixels = np.asarray(image).astype(np.float32) / 255
    dark = pixels ** float(rng.uniform(1.2, 2.2)) * float(rng.uniform(0.15, 0.5))
    h, w = dark.shape[:2]
    glow = np.zeros_like(dark)
    for _ in range(int(rng.integers(8, 50))):
        x, y = int(rng.uniform(0, w)), int(np.clip(rng.normal(0.52, 0.13), 0.1, 0.95) * h)
        colour = ((1.0, 0.15, 0.08), (1.0, 0.6, 0.15), (1.0, 0.95, 0.8), (1.0, 0.3, 0.05))[int(rng.integers(4))]
        size = max(1, int(rng.exponential(0.008) * w))
        cv2.circle(glow, (x, y), size, [float(rng.uniform(0.5, 1.0) * c) for c in colour], -1)
        if rng.random() < 0.3:
            cv2.line(glow, (x, y), (x, min(h - 1, y + int(rng.uniform(0.02, 0.2) * h))), [0.35 * c for c in colour], 2)
    lit = dark + glow + 0.8 * cv2.GaussianBlur(glow, (0, 0), float(rng.uniform(2, 7)))
    before, after = (Image.fromarray((np.clip(v, 0, 1) * 255).astype(np.uint8)) for v in (dark, lit))
    return before, after
