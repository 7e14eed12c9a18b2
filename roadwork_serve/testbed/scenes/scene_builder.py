"""Places objects on and beside the road: the building blocks of scenarios."""

from dataclasses import dataclass, field
from typing import TypedDict, Unpack

import numpy as np

from roadwork_serve.testbed.scenes.camera import Box, Camera
from roadwork_serve.testbed.scenes.plan import SceneObject
from roadwork_serve.testbed.scenes.signs import PHRASES, SIGN_COLOURS, Board, Face
from roadwork_serve.testbed.scenes.things import PAINTERS
from roadwork_serve.testbed.scenes.truth import ThingKind

THUMB_SIDE = 224  # side of the thumbnail of stage 1, pixels
# Factor by which a thing must appear larger than a cone to be as conspicuous.
CONSPICUOUSNESS = {"cone": 1.0, "barrel": 1.05, "barrier": 1.0, "worker": 1.55, "excavator": 1.9, "roller": 1.8,
        "arrow_board": 1.7, "lorry_with_cones": 1.9, "low_loader": 2.2, "cyclist": 1.5, "pedestrian": 1.6, "car": 1.4,
        "bin": 1.0, "parked_cones": 1.15}  # fmt: skip
MACHINES = ("excavator", "roller")


class Motion(TypedDict, total=False):
    """Motion of an object, see `SceneObject`."""

    cycle_hz: float
    phase: float
    vx: float
    vz: float


@dataclass
class SceneBuilder:
    """A scene under construction. Objects keep clear of the boxes already taken."""

    rng: np.random.Generator
    camera: Camera
    #: Left and right border of the carriageway, metres.
    edges: tuple[float, float]
    objects: list[SceneObject] = field(default_factory=list)
    #: Pixel boxes of the objects placed so far.
    taken: list[Box] = field(default_factory=list)

    def uniform(self, low: float, high: float) -> float:
        """Return a random number between low and high."""
        return float(self.rng.uniform(low, high))

    def chance(self, p: float) -> bool:
        """Return True with probability p."""
        return bool(self.rng.random() < p)

    def choice(self, *options: str) -> str:
        """Return a random option."""
        return options[int(self.rng.integers(len(options)))]

    def height(self, painter: str) -> float:
        """Return a random height for a painter's thing, metres."""
        return self.uniform(*PAINTERS[painter][0].height_m)

    def distance(self, height_m: float, thumb_px: float) -> float:
        """Return the distance in metres at which a thing is thumb_px pixels tall on the thumbnail of stage 1."""
        z = self.camera.focal * self.camera.width * height_m * THUMB_SIDE / (thumb_px * self.camera.height)
        return min(max(z, self.nearest()), 90.0)

    def nearest(self) -> float:
        """Return the distance in metres at which the foot of a thing is just inside the picture."""
        c = self.camera
        return c.above_m * c.focal * c.width / (c.height * (0.97 - c.horizon))

    def inside(self, x: float, z: float, height_m: float, aspect: float) -> float:
        """Return x, moved so that the whole width of the thing is in the picture."""
        c = self.camera
        half = height_m * aspect / 2
        low = -c.centre * z / c.focal - c.curve * z * z + half
        high = (1 - c.centre) * z / c.focal - c.curve * z * z - half
        return min(max(x, low), high) if low < high else (low + high) / 2

    def put(
        self, painter: str, x: float, z: float, height_m: float | None = None, **motion: Unpack[Motion]
    ) -> SceneObject:  # fmt: skip
        """Place a thing at (x, z)."""
        tall = height_m or self.height(painter)
        self.taken.append(self.camera.box(x, 0, z, tall, PAINTERS[painter][0].aspect))
        kind: ThingKind = "machine" if painter in MACHINES else painter  # type: ignore[assignment]
        item = SceneObject(painter, kind, x, z, tall, int(self.rng.integers(1 << 31)), flip=self.chance(0.5), **motion)
        self.objects.append(item)
        return item

    def put_if_free(
        self, painter: str, x: float, z: float, height_m: float | None = None, **motion: Unpack[Motion]
    ) -> None:  # fmt: skip
        """Place a thing at (x, z) unless it would overlap another or be out of the picture."""
        tall = height_m or self.height(painter)
        box = self.camera.box(x, 0, z, tall, PAINTERS[painter][0].aspect)
        if self.visible(box) and not any(_overlap(box, other) > 0.02 for other in self.taken):
            self.put(painter, x, z, tall, **motion)

    def visible(self, box: Box) -> bool:
        """Return whether at least two thirds of the width and all of the foot are in the picture."""
        x0, _, x1, y1 = box
        seen = min(x1, self.camera.width) - max(x0, 0)
        return seen > 0.66 * (x1 - x0) and y1 < self.camera.height

    def on_road(self, height_m: float, aspect: float, z: float) -> float:
        """Return a random x on the carriageway."""
        return self.inside(self.uniform(self.edges[0] + 0.6, self.edges[1] + 0.4), z, height_m, aspect)

    def beside(self, height_m: float, aspect: float, z: float, off: tuple[float, float] = (0.7, 3.0)) -> float:
        """Return a random x on the verge or pavement."""
        side = 1 if self.chance(0.65) else -1
        x = self.edges[1] + self.uniform(*off) if side > 0 else self.edges[0] - self.uniform(*off)
        return self.inside(x, z, height_m, aspect)

    def put_sized(self, painter: str, thumb_px: float, *, on_road: bool, **motion: Unpack[Motion]) -> SceneObject:
        """Place a thing at the distance where it is as conspicuous as a cone of thumb_px pixels."""
        tall = self.height(painter)
        aspect = PAINTERS[painter][0].aspect
        for _ in range(12):
            z = self.distance(tall, thumb_px * CONSPICUOUSNESS[painter] * self.uniform(0.92, 1.08))
            x = self.on_road(tall, aspect, z) if on_road else self.beside(tall, aspect, z)
            box = self.camera.box(x, 0, z, tall, aspect)
            if not any(_overlap(box, other) > 0.1 for other in self.taken):
                break
        return self.put(painter, x, z, tall, **motion)

    def put_sign(self, kind: ThingKind, face_px: float, *, palette: str = "work") -> SceneObject:
        """Place a sign beside the road whose face is face_px pixels wide in the full-size picture."""
        lines = PHRASES[kind][int(self.rng.integers(len(PHRASES[kind])))]
        wide = max(len(line) for line in lines)
        face: Face = "diamond" if palette == "work" and wide <= 8 and self.chance(0.55) else "board"
        colour, ink = SIGN_COLOURS[palette][int(self.rng.integers(len(SIGN_COLOURS[palette])))]
        board = Board(face, lines, colour, ink, lift=self.uniform(0.35, 0.5))
        tall = self.uniform(1.9, 2.5) / (1 - board.lift) * (0.62 if face == "board" else 0.75)
        face_m = tall * board.aspect
        z = min(max(self.camera.focal * self.camera.width * face_m / face_px, self.nearest()), 90.0)
        for _ in range(12):
            x = self.beside(tall, board.aspect, z, (0.5, 2.4))
            box = self.camera.box(x, 0, z, tall, board.aspect)
            if not any(_overlap(box, other) > 0.02 for other in self.taken):
                break
        item = SceneObject("sign", kind, x, z, tall, int(self.rng.integers(1 << 31)), board=board)
        self.objects.append(item)
        self.taken.append(box)
        return item


def _overlap(a: Box, b: Box) -> float:
    """Return the intersection as a fraction of the smaller box."""
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return w * h / max(smaller, 1e-6)
