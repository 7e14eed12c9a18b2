"""Sky, ground, road and roadside: everything that is never evidence."""

import numpy as np
from PIL import Image, ImageDraw

from roadwork_serve.testbed.scenes.camera import Camera
from roadwork_serve.testbed.scenes.pen import Colour, shade
from roadwork_serve.testbed.scenes.plan import Conditions, Scene

SKY: dict[str, tuple[Colour, Colour]] = {
    "day": ((96, 150, 214), (196, 216, 232)),
    "overcast": ((170, 176, 182), (206, 208, 210)),
    "dusk": ((70, 80, 128), (240, 170, 120)),
    "night": ((10, 12, 24), (36, 38, 52)),
}
VERGE: dict[str, Colour] = {"town": (150, 146, 138), "country": (104, 128, 66), "motorway": (118, 126, 84)}
FACADES: tuple[Colour, ...] = ((150, 96, 76), (178, 168, 150), (132, 132, 138), (196, 182, 150), (110, 84, 72))
LEAVES: tuple[Colour, ...] = ((58, 88, 40), (74, 104, 50), (96, 110, 52), (140, 104, 44))
FAR_M = 160.0


def draw_backdrop(scene: Scene, camera: Camera, travelled_m: float) -> Image.Image:
    """Return the empty scene, RGB, after the camera has driven travelled_m metres."""
    rng = np.random.default_rng([scene.seed, 1])
    image = Image.fromarray(_sky_and_ground(scene.conditions, camera, rng))
    draw = ImageDraw.Draw(image)
    _skyline(draw, scene.conditions, camera, rng)
    _road(draw, scene, camera, rng, travelled_m)
    image = _texture(image, camera, rng)
    draw = ImageDraw.Draw(image)
    if scene.conditions.setting == "town":
        _buildings(draw, scene, camera, rng, travelled_m)
    if scene.conditions.setting == "motorway":
        _guardrail(draw, scene, camera)
    _trees_and_lamps(draw, scene, camera, rng, travelled_m)
    return image


def _sky_and_ground(conditions: Conditions, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    w, h = camera.width, camera.height
    top, low = (np.array(c, np.float32) * rng.uniform(0.92, 1.08) for c in SKY[conditions.light])
    ground = np.array(shade(VERGE[conditions.setting], float(rng.uniform(0.8, 1.15))), np.float32)
    if conditions.weather == "snow":
        ground = ground * 0.35 + np.array((226, 228, 232), np.float32) * 0.65
    cut = int(camera.horizon * h)
    rows = np.empty((h, 3), np.float32)
    ramp = np.linspace(0, 1, max(cut, 1), dtype=np.float32)[:, None]
    rows[:cut] = (top * (1 - ramp) + low * ramp)[:cut]
    depth = np.linspace(0.75, 1.0, h - cut, dtype=np.float32)[:, None]
    rows[cut:] = ground * depth
    return np.broadcast_to(np.clip(rows, 0, 255).astype(np.uint8)[:, None, :], (h, w, 3)).copy()


def _skyline(draw: ImageDraw.ImageDraw, conditions: Conditions, camera: Camera, rng: np.random.Generator) -> None:
    w, h = camera.width, camera.height
    base = camera.horizon * h
    tone = shade((92, 108, 104) if conditions.setting != "town" else (112, 112, 122), float(rng.uniform(0.8, 1.2)))
    for layer in range(2):
        xs = np.linspace(0, w, 24)
        rise = np.abs(np.cumsum(rng.normal(0, 0.012, 24))) + 0.008 + 0.012 * (1 - layer)
        points = [(float(x), float(base - r * h)) for x, r in zip(xs, rise, strict=True)]
        draw.polygon([(0, base + 2), *points, (w, base + 2)], fill=shade(tone, 1.15 - 0.25 * layer))


def _strip(
    camera: Camera, left: float, right: float, near: float, far: float, steps: int = 10
) -> list[tuple[float, float]]:
    zs = 1 / np.linspace(1 / near, 1 / far, steps)
    return [camera.project(left, 0, float(z)) for z in zs] + [camera.project(right, 0, float(z)) for z in zs[::-1]]


def _nearest(camera: Camera) -> float:
    """Return the distance in metres at which the ground leaves the bottom of the picture."""
    return max(0.8, camera.above_m * camera.focal * camera.width / (camera.height * (1.02 - camera.horizon)))


def _road(
    draw: ImageDraw.ImageDraw, scene: Scene, camera: Camera, rng: np.random.Generator, travelled_m: float
) -> None:
    near = _nearest(camera)
    left, right = scene.edges
    asphalt = shade((98, 98, 102), float(rng.uniform(0.65, 1.2)))
    if scene.conditions.weather == "snow":
        asphalt = shade(asphalt, 1.35)
    paving = shade((168, 164, 158), float(rng.uniform(0.8, 1.1)))
    if scene.conditions.setting == "town":
        draw.polygon(_strip(camera, left - 3.2, right + 3.2, near, FAR_M), fill=paving)
        draw.polygon(_strip(camera, left - 0.25, right + 0.25, near, FAR_M), fill=shade(paving, 0.7))
    draw.polygon(_strip(camera, left, right, near, FAR_M), fill=asphalt)
    white = shade((226, 226, 220), float(rng.uniform(0.75, 1.0)))
    yellow = (222, 180, 50)
    if rng.random() < 0.8:
        for edge, inset in ((left, 0.25), (right, -0.25)):
            draw.polygon(_strip(camera, edge + inset - 0.07, edge + inset + 0.07, near, FAR_M), fill=white)
    lanes = round((right - left) / 3.5)
    split = yellow if rng.random() < 0.5 else white
    solid = rng.random() < 0.4
    for lane in range(1, lanes):
        x = left + lane * (right - left) / lanes
        if lane == 1 and solid:
            draw.polygon(_strip(camera, x - 0.08, x + 0.08, near, FAR_M), fill=split)
            continue
        for start in np.arange(-(travelled_m % 9.0), 90.0, 9.0):
            a, b = max(near, float(start)), float(start) + 3.0
            if b > near:
                draw.polygon(_strip(camera, x - 0.08, x + 0.08, a, b, 2), fill=split if lane == 1 else white)
    if scene.car_park is not None:
        x0, x1, z0, z1 = scene.car_park
        draw.polygon(
            _strip(camera, x0, x1, max(near, z0 - travelled_m), max(near + 1, z1 - travelled_m), 4),
            fill=shade(asphalt, 1.12),
        )
        for z in np.arange(z0, z1, 2.6):
            a = float(z) - travelled_m
            if a > near:
                draw.polygon(_strip(camera, x0, x1, a, a + 0.14, 2), fill=white)


def _texture(image: Image.Image, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """Add coarse and fine grain to the ground and clouds to the sky."""
    w, h = image.size
    cut = int(camera.horizon * h)
    grain = _grain(w, h - cut, rng, (12, 40), 9.0)
    clouds = _grain(w, max(1, cut), rng, (4, 6), 7.0)
    pixels = np.asarray(image).astype(np.int16)
    pixels[cut:] += grain[:, :, None]
    pixels[:cut] += clouds[:cut, :, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _grain(w: int, h: int, rng: np.random.Generator, cells: tuple[int, int], strength: float) -> np.ndarray:
    small = rng.normal(0, strength, (cells[0], cells[1])).astype(np.float32)
    return np.asarray(Image.fromarray(small).resize((w, h), Image.Resampling.BILINEAR)).astype(np.int16)


def _buildings(
    draw: ImageDraw.ImageDraw, scene: Scene, camera: Camera, rng: np.random.Generator, travelled_m: float
) -> None:
    near = _nearest(camera)
    lit = scene.conditions.light in ("night", "dusk")
    for side in (-1, 1):
        x = (scene.edges[0] - rng.uniform(4, 9)) if side < 0 else (scene.edges[1] + rng.uniform(4, 9))
        if scene.car_park is not None and (scene.car_park[0] > 0) == (side > 0):
            x = (scene.car_park[1] + 2.0) if side > 0 else (scene.car_park[0] - 2.0)
        z = 6.0
        rows: list[tuple[float, float, float, Colour, int]] = []
        while z < 110:
            deep = float(rng.uniform(8, 20))
            facade = shade(FACADES[int(rng.integers(len(FACADES)))], float(rng.uniform(0.8, 1.1)))
            rows.append((z, z + deep, float(rng.uniform(5, 15)), facade, int(rng.integers(1 << 30))))
            z += deep + (float(rng.uniform(2, 8)) if rng.random() < 0.3 else 0.0)
        for z0, z1, tall, facade, style in reversed(rows):
            a, b = z0 - travelled_m, z1 - travelled_m
            if b < near + 0.5:
                continue
            a = max(a, near)
            quad = [
                camera.project(x, 0, a),
                camera.project(x, tall, a),
                camera.project(x, tall, b),
                camera.project(x, 0, b),
            ]
            draw.polygon(quad, fill=shade(facade, 1.0 if side > 0 else 0.88))
            _windows(draw, camera, x, a, b, tall, np.random.default_rng(style), lit)


def _windows(
    draw: ImageDraw.ImageDraw,
    camera: Camera,
    x: float,
    z0: float,
    z1: float,
    tall: float,
    rng: np.random.Generator,
    lit: bool,
) -> None:
    if camera.per_metre(z0) * 1.2 < 5:
        return
    for floor in np.arange(1.2, tall - 1.5, 3.0):
        for z in np.arange(z0 + 1.0, z1 - 1.5, 3.2):
            glow = lit and rng.random() < 0.4
            tone = (236, 206, 130) if glow else shade((58, 66, 78), float(rng.uniform(0.7, 1.4)))
            f, a = float(floor), float(z)
            draw.polygon([camera.project(x, f, a), camera.project(x, f + 1.5, a), camera.project(x, f + 1.5, a + 1.4),
                          camera.project(x, f, a + 1.4)], fill=tone)  # fmt: skip


def _guardrail(draw: ImageDraw.ImageDraw, scene: Scene, camera: Camera) -> None:
    near = _nearest(camera)
    zs = 1 / np.linspace(1 / near, 1 / FAR_M, 10)
    for x in (scene.edges[0] - 0.8, scene.edges[1] + 0.8):
        top = [camera.project(x, 0.75, float(z)) for z in zs]
        low = [camera.project(x, 0.45, float(z)) for z in zs[::-1]]
        draw.polygon(top + low, fill=(150, 153, 156))


def _trees_and_lamps(
    draw: ImageDraw.ImageDraw, scene: Scene, camera: Camera, rng: np.random.Generator, travelled_m: float
) -> None:
    near = _nearest(camera)
    dense = {"town": 4, "country": 14, "motorway": 8}[scene.conditions.setting]
    places = [
        (float(rng.uniform(8, 100)), int(rng.choice((-1, 1))), float(rng.uniform(3.5, 14)), float(rng.uniform(3, 8)))
        for _ in range(dense)
    ]
    for z, side, off, tall in sorted(places, reverse=True):
        leaf = shade(LEAVES[int(rng.integers(len(LEAVES)))], float(rng.uniform(0.7, 1.1)))
        z -= travelled_m
        if z < near + 1:
            continue
        x = scene.edges[1] + off if side > 0 else scene.edges[0] - off
        foot, crown = camera.project(x, 0, z), camera.project(x, tall, z)
        size = (foot[1] - crown[1]) * 0.36
        draw.line([foot, crown], fill=(70, 56, 44), width=max(1, round(size * 0.16)))
        for dx, dy in ((-0.5, 0.5), (0.5, 0.45), (0.0, 0.0)):
            cx, cy = crown[0] + dx * size, crown[1] + (dy + 0.5) * size
            draw.ellipse((cx - size, cy - size, cx + size, cy + size), fill=shade(leaf, 0.9 + 0.2 * (dx == 0)))
    if scene.conditions.setting == "country":
        return
    first = float(rng.uniform(0, 25))
    for z in np.arange(first + 100, first, -25.0):
        a = float(z) - travelled_m
        if a < near + 1:
            continue
        x = scene.edges[1] + 1.2
        foot, top, arm = camera.project(x, 0, a), camera.project(x, 7, a), camera.project(x - 1.8, 7.2, a)
        wide = max(1, round(camera.per_metre(a) * 0.13))
        draw.line([foot, top, arm], fill=(96, 98, 100), width=wide)
        if scene.conditions.light in ("night", "dusk"):
            r = camera.per_metre(a) * 0.35
            draw.ellipse((arm[0] - r, arm[1] - r, arm[0] + r, arm[1] + r), fill=(255, 226, 160))
