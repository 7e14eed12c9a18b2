"""Pairs of pictures that differ in the works alone: works pasted on a street, or painted out of a picture."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from roadwork_serve.testbed.real_pictures.cutouts import (
    Cutout,
    night_lights,
    recoloured_patch,
    rendered_other,
    rendered_works,
    tinted,
    tinted_in_place,
)
from roadwork_serve.testbed.real_pictures.sources import EVIDENCE, Box, Picture

LONG_SIDE = 384
CAMERA_M = (0.6, 2.0)  # height of the camera, which gives pasted objects their size: low ones see close-ups
HORIZON = (0.36, 0.52)
RENDERED_SHARE = 0.35  # of pasted works are drawn by the renderer; more while there are fewer than ENOUGH real ones
ENOUGH = 6
MAX_ENLARGED = 1.6  # times its own height that a cutout may be pasted: beyond that it is a blur
CLEARED_SHARE = 0.35  # of bases are frames whose own works were painted out
# Groups whose pictures show a street or path to stand on, seen from about a person's height.
STREETS = frozenset(
    {
        "baltic_road",
        "seoul",
        "lums",
        "korea_walk_IMG",
        "korea_walk_image",
        "u_p1",
        "clip_houston_none",
        "clip_jacksonville_none",
    }
)


@dataclass(frozen=True)
class Pair:
    """Two RGB pictures of one size that differ in one respect."""

    before: Image.Image
    after: Image.Image
    #: Road work in `before` and `after`: 1 or 0.
    labels: tuple[int, int]
    #: +1 if `after` shows more works than `before`, -1 if less, 0 if the same.
    order: int
    #: Name of the method that drew it.
    kind: str
    #: Evidence in each; None where it is not known.
    boxes: tuple[list[Box] | None, list[Box] | None]
    #: Words worth reading in each: 1, 0, or -1 for unknown.
    words: tuple[int, int] = (-1, -1)
    #: Groups of all pictures that went into it, so that a fold of sources can leave the pair out.
    groups: frozenset[str] = frozenset()


@dataclass
class _Canvas:
    """A picture being pasted on. Objects further away are pasted first by the caller."""

    image: Image.Image
    boxes: list[Box] = field(default_factory=list)
    words: bool = False

    def paste(
        self, cutout: Cutout, x: float, bottom: float, tall: float, rng: np.random.Generator, shadow: bool
    ) -> None:
        """x, bottom: of the middle of its lower edge, shares. tall: of the picture's height."""
        w, h = self.image.size
        height = max(3, min(round(tall * h), round(MAX_ENLARGED * cutout.image.height)))
        width = max(2, round(height * cutout.image.width / cutout.image.height))
        small = cutout.image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
        figure = _worn(small, self.image, rng, flip=not cutout.words and rng.random() < 0.4)
        left, top = round(x * w - width / 2), round(bottom * h - height)
        if shadow:
            _shadow(self.image, left, left + width, round(bottom * h), rng)
        self.image.paste(figure, (left, top), figure)
        box = [min(max(v, 0.0), 1.0) for v in (left / w, top / h, (left + width) / w, (top + height) / h)]
        if cutout.kind and box[2] - box[0] > 0 and box[3] - box[1] > 0:
            self.boxes.append(Box(cutout.kind, *box))
        self.words |= cutout.words and height * 0.5 >= 0.06 * h


def _worn(figure: Image.Image, scene: Image.Image, rng: np.random.Generator, flip: bool) -> Image.Image:
    """Fit a cutout to the scene: its brightness, sharpness and a little of its colour."""
    rgb, alpha = figure.convert("RGB"), figure.getchannel("A")
    mean = float(np.asarray(scene.convert("L").resize((8, 8))).mean())
    rgb = ImageEnhance.Brightness(rgb).enhance(float(np.clip(mean / 115, 0.45, 1.3) ** 0.6 * rng.uniform(0.8, 1.2)))
    rgb = ImageEnhance.Color(rgb).enhance(float(rng.uniform(0.6, 1.15)))
    if rng.random() < 0.5:
        blur = ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.9)))
        rgb, alpha = rgb.filter(blur), alpha.filter(blur)
    if flip:
        rgb = rgb.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        alpha = alpha.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.25:
        veil = Image.new("RGB", rgb.size, tuple(int(v) for v in np.asarray(scene.resize((1, 1)))[0, 0]))
        rgb = Image.blend(rgb, veil, float(rng.uniform(0.1, 0.35)))
    rgb.putalpha(alpha)
    return rgb


def _shadow(image: Image.Image, x0: int, x1: int, y: int, rng: np.random.Generator) -> None:
    deep = max(2, round((x1 - x0) * 0.16))
    size = (max(3, round((x1 - x0) * 1.1)), deep * 2)
    mask = np.zeros(size[::-1], np.uint8)
    cv2.ellipse(mask, (size[0] // 2, deep), (size[0] // 2, deep), 0, 0, 360, int(rng.integers(50, 120)), -1)
    soft = Image.fromarray(cv2.GaussianBlur(mask, (3, 3), 0.8))
    image.paste((16, 16, 18), (x0 - (size[0] - (x1 - x0)) // 2, y - deep), soft)


def _hue_shifted(cutout: Cutout, shift: int) -> Cutout:
    rgba = np.asarray(cutout.image)
    hsv = cv2.cvtColor(np.ascontiguousarray(rgba[..., :3]), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int32) + shift) % 180
    shifted = np.dstack([cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), rgba[..., 3]])
    return replace(cutout, image=Image.fromarray(shifted))


class Composer:
    """Draws pairs from training pictures and cutouts. Two composers with the same seed draw the same pairs."""

    def __init__(self, pictures: Sequence[Picture], cutouts: Sequence[Cutout]) -> None:
        self.streets = _by_group([p for p in pictures if p.group in STREETS and not p.label])
        self.plain = _by_group([p for p in pictures if not p.label])
        self.boxed = _by_group([p for p in pictures if p.label and p.boxes])
        self.complete = _by_group([p for p in pictures if p.complete and p.boxes])
        self.positives = _by_group([p for p in pictures if p.label])
        self.traffic = [c for c in cutouts if not c.kind]
        self._groups: set[str] = set()
        self.cutouts = {kind: [c for c in cutouts if c.kind == kind] for kind in EVIDENCE}

    def pair(self, rng: np.random.Generator) -> Pair:
        """Draw one pair of a random kind."""
        kinds = [self.pasted, self.misplaced, self.distracted, self.painted_out, self.painted_elsewhere]
        draw = kinds[int(rng.choice(len(kinds), p=(0.4, 0.09, 0.24, 0.21, 0.06)))]
        self._groups = set()
        return replace(draw(rng), groups=frozenset(self._groups))

    def _draw(self, groups: list[list[Picture]], rng: np.random.Generator) -> Picture:
        """Draw a picture; a group's chance grows with the square root of its size."""
        weights = np.sqrt([len(group) for group in groups])
        group = groups[int(rng.choice(len(groups), p=weights / weights.sum()))]
        picture = group[int(rng.integers(len(group)))]
        self._groups.add(picture.group)
        return picture

    def _cutout(self, cutouts: Sequence[Cutout], rng: np.random.Generator) -> Cutout:
        cutout = cutouts[int(rng.integers(len(cutouts)))]
        self._groups.add(cutout.group)
        return cutout

    def _base(self, groups: list[list[Picture]], rng: np.random.Generator) -> Image.Image:
        """Draw a picture without works: one of the groups, or one whose works are painted out."""
        if self.complete and rng.random() < CLEARED_SHARE:
            picture = self._draw(self.complete, rng)
            return paint_out(shrink(picture.image), list(picture.boxes or ()))
        return _base(self._draw(groups, rng), rng)

    def works(self, rng: np.random.Generator, kind: str | None = None) -> Cutout:
        """Draw an object of works, real ones first."""
        kind = kind or str(rng.choice(EVIDENCE, p=(0.7, 0.12, 0.12, 0.06)))
        real = self.cutouts[kind]
        if real and rng.random() < (1 - RENDERED_SHARE) * min(1.0, len(real) / ENOUGH):
            chosen = self._cutout(real, rng)
            return _hue_shifted(chosen, int(rng.integers(-10, 6))) if kind == "cone" and rng.random() < 0.5 else chosen
        while (drawn := rendered_works(rng)).kind != kind:
            pass
        return drawn

    def pasted(self, rng: np.random.Generator) -> Pair:
        """Draw a street, and the same with works on its ground: a row of cones, a machine with workers, a sign."""
        before = self._base(self.streets, rng)
        canvas = _Canvas(before.copy())
        horizon, camera = rng.uniform(*HORIZON), np.exp(rng.uniform(*np.log(CAMERA_M)))
        row = _ground_row(rng, horizon, int(rng.choice([1, 2, 3, 5, 8], p=(0.2, 0.22, 0.22, 0.22, 0.14))))
        same = self.works(rng, "cone")
        objects = [(same if rng.random() < 0.8 else self.works(rng, "cone"), x, y) for x, y in row]
        if rng.random() < 0.45:
            for _ in range(int(rng.integers(1, 3))):
                objects.append((self.works(rng, str(rng.choice(EVIDENCE[1:]))), *_ground_row(rng, horizon, 1)[0]))
            if rng.random() < 0.35:
                objects = objects[len(row) :]  # machines, workers or signs without cones
        for cutout, x, y in sorted(objects, key=lambda each: each[2]):
            tall = rng.uniform(*cutout.height_m) / camera * (y - horizon)
            canvas.paste(cutout, x, y, min(0.75, max(tall, 0.05)), rng, shadow=rng.random() < 0.7)
        after, before = _aged(canvas.image, before, rng)
        return Pair(before, after, (0, 1), 1, "pasted", ([], canvas.boxes), (-1, 1 if canvas.words else -1))

    def misplaced(self, rng: np.random.Generator) -> Pair:
        """Cones where they are no works: carried or parked ones, or in the sky and on facades as on a poster."""
        before = self._base(self.plain, rng)
        canvas = _Canvas(before.copy())
        if rng.random() < 0.5:
            horizon, camera = rng.uniform(*HORIZON), np.exp(rng.uniform(*np.log(CAMERA_M)))
            ((x, y),) = _ground_row(rng, horizon, 1)
            cutout = rendered_other(rng)
            canvas.paste(
                cutout, x, y, min(0.7, max(rng.uniform(*cutout.height_m) / camera * (y - horizon), 0.06)), rng, True
            )
        else:
            for _ in range(int(rng.integers(1, 4))):
                canvas.paste(
                    self.works(rng, "cone"),
                    rng.uniform(0.1, 0.9),
                    rng.uniform(0.12, 0.34),
                    rng.uniform(0.05, 0.2),
                    rng,
                    False,
                )
        after, before = _aged(canvas.image, before, rng)
        return Pair(before, after, (0, 0), 0, "misplaced", ([], canvas.boxes))

    def distracted(self, rng: np.random.Generator) -> Pair:
        """Draw a picture, and the same with bright things that are no works: traffic, lights at night, tinted blobs."""
        draw = rng.random()
        if draw < 0.15:
            before, after = night_lights(self._base(self.plain, rng), rng)
            return Pair(before, after, (0, 0), 0, "distracted", ([], []))
        if self.traffic and draw < 0.55:
            return self._traffic(rng)
        before = self._base(self.plain, rng)
        canvas = _Canvas(tinted_in_place(before, rng) if rng.random() < 0.5 else before.copy())
        horizon, camera = rng.uniform(*HORIZON), np.exp(rng.uniform(*np.log(CAMERA_M)))
        for x, y in _ground_row(rng, horizon, int(rng.integers(0, 4))):
            other = (
                recoloured_patch(self._draw(self.plain, rng).image, rng) if rng.random() < 0.65 else rendered_other(rng)
            )
            tall = rng.uniform(*other.height_m) / camera * (y - horizon)
            canvas.paste(other, x, y, min(0.5, max(tall, 0.05)), rng, shadow=rng.random() < 0.7)
        after, before = _aged(canvas.image, before, rng)
        return Pair(before, after, (0, 0), 0, "distracted", ([], []))

    def _traffic(self, rng: np.random.Generator) -> Pair:
        """Draw a street, and the same with a few or many cars, most of them repainted."""
        before = self._base(self.streets, rng)
        canvas = _Canvas(before.copy())
        horizon, camera = rng.uniform(*HORIZON), np.exp(rng.uniform(np.log(1.1), np.log(6.0)))  # a high one sees a jam
        rows = [
            _ground_row(rng, horizon, int(rng.integers(1, 8)))
            for _ in range(int(rng.choice([1, 2, 4], p=(0.5, 0.3, 0.2))))
        ]
        for x, y in sorted((place for row in rows for place in row), key=lambda place: place[1]):
            car = self._cutout(self.traffic, rng)
            car = tinted(car, rng) if rng.random() < 0.65 else car
            tall = rng.uniform(*car.height_m) / camera * (y - horizon)
            canvas.paste(car, x, y, min(0.5, max(tall, 0.05)), rng, shadow=True)
        after, before = _aged(canvas.image, before, rng)
        return Pair(before, after, (0, 0), 0, "distracted", ([], []))

    def painted_out(self, rng: np.random.Generator) -> Pair:
        """Draw a boxed picture with works, and the same with every box painted out."""
        picture = self._draw(self.complete, rng)
        before = shrink(picture.image)
        boxes = list(picture.boxes or ())
        after = paint_out(before, boxes)
        return Pair(before, after, (1, 0), -1, "painted_out", (boxes, []))

    def painted_elsewhere(self, rng: np.random.Generator) -> Pair:
        """Draw a picture, and paint over parts without works: its label stays, so that smears predict nothing."""
        picture = self._draw(self.boxed if rng.random() < 0.6 else self.plain, rng)
        before = shrink(picture.image)
        boxes = list(picture.boxes or ())
        holes: list[Box] = []
        for _ in range(40):
            if len(holes) == 4:
                break
            w, h = rng.uniform(0.04, 0.16), rng.uniform(0.06, 0.2)
            x, y = rng.uniform(0, 1 - w), rng.uniform(0.3, 1 - h)
            hole = Box("cone", x, y, x + w, y + h)
            if not any(_touch(hole, other) for other in boxes):
                holes.append(hole)
        after = paint_out(before, holes, grow=0.0)
        label = int(picture.label)
        known = boxes if picture.label or picture.boxes is not None else []
        return Pair(before, after, (label, label), 0, "painted_elsewhere", (known, known))


def paint_out(image: Image.Image, boxes: Sequence[Box], grow: float = 0.12) -> Image.Image:
    """Fill boxes, grown a little, from their surroundings (OpenCV's Telea inpainting)."""
    pixels = np.asarray(image)
    h, w = pixels.shape[:2]
    mask = np.zeros((h, w), np.uint8)
    for box in boxes:
        gx, gy = grow * (box.x1 - box.x0) + 1 / w, grow * (box.y1 - box.y0) + 1 / h
        x0, y0 = max(0, int((box.x0 - gx) * w)), max(0, int((box.y0 - gy) * h))
        mask[y0 : int(np.ceil((box.y1 + gy) * h)), x0 : int(np.ceil((box.x1 + gx) * w))] = 255
    filled = cv2.inpaint(np.ascontiguousarray(pixels), mask, 4, cv2.INPAINT_TELEA)
    grain = np.random.default_rng(int(mask.sum()) % 2**31).normal(0, 3, (h, w, 1))
    noisy = np.clip(filled + grain * (mask[..., None] > 0), 0, 255).astype(np.uint8)
    return Image.fromarray(noisy)


def paste_row(image: Image.Image, cutout: Cutout, count: int, rng: np.random.Generator) -> Image.Image:
    """Paste copies of one object in a row on the ground, in perspective. Returns a new picture."""
    canvas = _Canvas(image.copy())
    horizon, camera = rng.uniform(*HORIZON), rng.uniform(1.1, 1.7)
    for x, y in sorted(_ground_row(rng, horizon, count), key=lambda place: place[1]):
        tall = rng.uniform(*cutout.height_m) / camera * (y - horizon)
        canvas.paste(cutout, x, y, min(0.75, max(tall, 0.08)), rng, shadow=True)
    return canvas.image


def _by_group(pictures: Sequence[Picture]) -> list[list[Picture]]:
    groups: dict[str, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(picture.group, []).append(picture)
    return list(groups.values())


def shrink(image: Image.Image, long_side: int = LONG_SIDE) -> Image.Image:
    """Scale a picture down to at most this longer side, pixels."""
    scale = long_side / max(image.size)
    if scale >= 1:
        return image
    return image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR, reducing_gap=2.0
    )


def _base(picture: Picture, rng: np.random.Generator) -> Image.Image:
    """Return the picture, at most LONG_SIDE px, sometimes cropped at its sides and top (its ground stays)."""
    image = shrink(picture.image)
    if rng.random() < 0.5:
        w, h = image.size
        cut = rng.uniform(0, 0.2)
        left = rng.uniform(0, cut)
        image = image.crop((int(left * w), int(rng.uniform(0, 0.15) * h), int((1 - cut + left) * w), h))
    return image


def _ground_row(rng: np.random.Generator, horizon: float, count: int) -> list[tuple[float, float]]:
    """Places on the ground along a straight line in the world: x and y of the lower edge, shares of the picture."""
    near_y = float(rng.uniform(horizon + 0.14, 0.97))
    near_x = float(rng.uniform(0.08, 0.92))
    if count < 2:
        return [(near_x, near_y)] * count
    far_x = float(np.clip(near_x + rng.normal(0, 0.3), 0.1, 0.9))
    far_y = float(rng.uniform(horizon + 0.05, max(horizon + 0.07, near_y - 0.02)))
    near_z, far_z = 1 / (near_y - horizon), 1 / (far_y - horizon)
    places = []
    for share in np.linspace(0, 1, count):
        z = near_z + share * (far_z - near_z)
        across = near_x * near_z * (1 - share) + far_x * far_z * share  # straight in the world, from the left edge
        places.append((float(across / z), float(horizon + 1 / z)))
    return places


def _aged(after: Image.Image, before: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Wear both sides alike now and then, so that edges of pasted things melt in."""
    if rng.random() < 0.3:
        blur = ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.8)))
        return after.filter(blur), before.filter(blur)
    return after, before


def _touch(a: Box, b: Box) -> bool:
    return a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1


def square(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """Squash to a square as the server's thumbnails are."""
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
