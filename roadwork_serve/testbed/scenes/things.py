"""The painters of things on or beside the road. Each fills its sprite's box; phase animates moving parts."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from roadwork_serve.testbed.scenes.pen import Colour, Pen, shade

ORANGE: tuple[Colour, ...] = ((242, 101, 20), (232, 84, 24), (250, 122, 30), (221, 78, 34))
HIVIS: tuple[Colour, ...] = ((206, 240, 60), (245, 110, 30), (222, 232, 40))
MACHINE: tuple[Colour, ...] = ((240, 180, 30), (235, 150, 25), (225, 195, 50), (215, 95, 30), (190, 200, 205))
CLOTHES: tuple[Colour, ...] = ((40, 50, 80), (80, 80, 86), (120, 40, 44), (60, 90, 66), (150, 150, 160), (30, 30, 34))
PAINTWORK: tuple[Colour, ...] = (
    (200, 202, 205), (35, 36, 40), (120, 124, 130), (150, 24, 28), (34, 62, 120), (240, 240, 242), (90, 80, 66),
    (228, 98, 26),
)  # fmt: skip
SKIN: tuple[Colour, ...] = ((224, 178, 148), (176, 126, 92), (112, 78, 56))
RUBBER: Colour = (26, 26, 28)
STEEL: Colour = (128, 132, 136)
WHITE: Colour = (240, 240, 236)


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a thing."""

    #: Range of heights, metres.
    height_m: tuple[float, float]
    #: Width divided by height.
    aspect: float


def pick(pen: Pen, colours: tuple[Colour, ...]) -> Colour:
    """Return one of the colours, a little lighter or darker."""
    return shade(colours[int(pen.rng.integers(len(colours)))], float(pen.rng.uniform(0.85, 1.08)))


def cone(pen: Pen, phase: float) -> None:
    """Paint a traffic cone."""
    body, base = pick(pen, ORANGE), RUBBER if pen.rng.random() < 0.7 else pick(pen, ORANGE)
    pen.poly([(0.0, 0.93), (0.1, 0.88), (0.9, 0.88), (1.0, 0.93), (1.0, 1.0), (0.0, 1.0)], base)
    pen.poly([(0.42, 0.0), (0.58, 0.0), (0.86, 0.92), (0.14, 0.92)], body)
    pen.poly([(0.54, 0.0), (0.58, 0.0), (0.86, 0.92), (0.68, 0.92)], shade(body, 0.8))
    for top, bottom in ((0.22, 0.40), (0.52, 0.68)) if pen.rng.random() < 0.7 else ((0.28, 0.58),):
        pen.poly(
            [(_side(top, -1), top), (_side(top, 1), top), (_side(bottom, 1), bottom), (_side(bottom, -1), bottom)],
            WHITE,
        )


def _side(y: float, sign: int) -> float:
    return 0.5 + sign * (0.08 + 0.28 * y / 0.92)


def barrel(pen: Pen, phase: float) -> None:
    """Paint a traffic drum."""
    body = pick(pen, ORANGE)
    pen.rect(0.0, 0.93, 1.0, 1.0, RUBBER)
    pen.rect(0.1, 0.06, 0.9, 0.95, body)
    pen.oval(0.1, 0.0, 0.9, 0.12, shade(body, 1.1))
    for top in (0.2, 0.5):
        pen.rect(0.1, top, 0.9, top + 0.14, WHITE)
    pen.rect(0.72, 0.06, 0.9, 0.95, shade(body, 0.75))
    for top in (0.2, 0.5):
        pen.rect(0.72, top, 0.9, top + 0.14, shade(WHITE, 0.75))


def barrier(pen: Pen, phase: float) -> None:
    """Paint a barrier."""
    stripe = (205, 36, 40) if pen.rng.random() < 0.5 else pick(pen, ORANGE)
    if pen.rng.random() < 0.35:  # water-filled blocks
        for i in range(4):
            tone = stripe if i % 2 else WHITE
            pen.poly([(i / 4, 0.25), ((i + 1) / 4 - 0.01, 0.25), ((i + 1) / 4, 1.0), (i / 4, 1.0)], shade(tone, 0.95))
            pen.rect(i / 4, 0.9, (i + 1) / 4, 1.0, shade(tone, 0.7))
        return
    for x in (0.1, 0.84):
        pen.rect(x, 0.1, x + 0.05, 1.0, shade(STEEL, 0.8))
        pen.rect(x - 0.06, 0.96, x + 0.11, 1.0, RUBBER)
    rails = (0.08, 0.38, 0.68) if pen.rng.random() < 0.5 else (0.1, 0.5)
    for top in rails:
        pen.rect(0.0, top, 1.0, top + 0.19, WHITE)
        for i in range(-1, 7):
            x = i / 6
            pen.poly([(max(0, x), top + 0.19), (max(0, min(1, x + 0.085)), top + 0.19),
                      (max(0, min(1, x + 0.165)), top), (max(0, min(1, x + 0.08)), top)], stripe)  # fmt: skip


def arrow_board(pen: Pen, phase: float) -> None:
    """Paint an arrow board."""
    pen.rect(0.47, 0.5, 0.53, 0.85, STEEL)
    pen.rect(0.2, 0.8, 0.8, 0.9, pick(pen, ORANGE))
    for x in (0.27, 0.73):
        pen.disc(x, 0.93, 0.07, RUBBER)
    pen.rect(0.0, 0.0, 1.0, 0.55, (22, 22, 24))
    lit = math.sin(phase * 2 * math.pi) > -0.3
    lamp = (255, 196, 60) if lit else (80, 62, 24)
    direction = 1 if pen.rng.random() < 0.5 else -1
    dots = [(0.5 + direction * dx, y) for dx, y in (
        (-0.36, 0.275), (-0.22, 0.275), (-0.08, 0.275), (0.06, 0.275), (0.2, 0.275), (0.36, 0.275),
        (0.27, 0.17), (0.27, 0.38), (0.18, 0.08), (0.18, 0.47))]  # fmt: skip
    for x, y in dots:
        pen.disc(x, y, 0.035, lamp)


def _person(pen: Pen, top: Colour, legs: Colour, hat: Colour | None, vest: bool, phase: float, raised: bool) -> None:
    skin = pick(pen, SKIN)
    swing = 0.06 * math.sin(phase * 2 * math.pi)
    pen.poly([(0.36, 0.52), (0.5, 0.52), (0.46 + swing, 1.0), (0.3 + swing, 1.0)], legs)
    pen.poly([(0.5, 0.52), (0.66, 0.52), (0.7 - swing, 1.0), (0.54 - swing, 1.0)], shade(legs, 0.85))
    lift = 0.5 + 0.5 * math.sin(phase * 2 * math.pi) if raised else 0.0
    hand_y = 0.56 - 0.46 * lift
    pen.line([(0.70, 0.24), (0.84, 0.36 - 0.1 * lift), (0.90, hand_y)], 0.055, shade(top, 0.88))
    pen.line([(0.30, 0.24), (0.18, 0.38), (0.2, 0.54)], 0.055, shade(top, 0.92))
    pen.poly([(0.3, 0.19), (0.7, 0.19), (0.68, 0.55), (0.32, 0.55)], top)
    if vest:
        pen.rect(0.31, 0.41, 0.69, 0.455, WHITE)
        pen.rect(0.38, 0.19, 0.44, 0.42, WHITE)
        pen.rect(0.56, 0.19, 0.62, 0.42, WHITE)
    pen.disc(0.5, 0.1, 0.07, skin)
    if hat:
        pen.poly([(0.3, 0.085), (0.35, 0.03), (0.5, 0.0), (0.65, 0.03), (0.7, 0.085)], hat)
    else:
        pen.poly([(0.35, 0.08), (0.38, 0.03), (0.5, 0.015), (0.62, 0.03), (0.65, 0.08)], (50, 36, 28))


def worker(pen: Pen, phase: float) -> None:
    """Paint a road worker."""
    hat = (WHITE, (245, 210, 40), (240, 120, 30))[int(pen.rng.integers(3))]
    vest = pick(pen, HIVIS)
    legs = pick(pen, CLOTHES) if pen.rng.random() < 0.6 else shade(vest, 0.9)
    tool = pen.rng.random()
    _person(pen, vest, legs, hat, vest=True, phase=phase, raised=True)
    if tool < 0.5:
        pen.line([(0.2, 0.42), (0.08, 0.98)], 0.02, (120, 86, 50))
        pen.rect(0.03, 0.9, 0.13, 1.0, STEEL)
    elif tool < 0.7:
        pen.line([(0.18, 0.3), (0.18, 1.0)], 0.018, STEEL)
        pen.disc(0.18, 0.2, 0.085, (200, 30, 34) if tool < 0.6 else (240, 140, 30))


def pedestrian(pen: Pen, phase: float) -> None:
    """Paint a pedestrian."""
    top = pick(pen, CLOTHES) if pen.rng.random() < 0.8 else pick(pen, ORANGE)
    _person(pen, top, pick(pen, CLOTHES), None, vest=False, phase=phase, raised=False)


def cyclist(pen: Pen, phase: float) -> None:
    """Paint a cyclist in hi-vis from the side; the wheels tell them from a worker."""
    vest, frame = pick(pen, HIVIS), pick(pen, PAINTWORK)
    for x in (0.22, 0.78):
        pen.ring(x, 0.8, 0.19, 0.025, RUBBER)
    pen.line([(0.22, 0.8), (0.42, 0.58), (0.68, 0.58), (0.78, 0.8)], 0.022, frame)
    pen.line([(0.42, 0.58), (0.5, 0.82), (0.68, 0.58)], 0.022, frame)
    knee = 0.03 * math.sin(phase * 2 * math.pi)
    pen.line([(0.42, 0.5), (0.56, 0.62 + knee), (0.5, 0.84 - knee)], 0.06, pick(pen, CLOTHES))
    pen.poly([(0.36, 0.52), (0.46, 0.54), (0.66, 0.24), (0.5, 0.18)], vest)
    pen.line([(0.6, 0.27), (0.7, 0.4), (0.72, 0.53)], 0.045, shade(vest, 0.85))
    pen.disc(0.63, 0.11, 0.07, pick(pen, SKIN))
    pen.poly([(0.54, 0.1), (0.58, 0.03), (0.66, 0.02), (0.73, 0.09)], pick(pen, PAINTWORK))


def car(pen: Pen, phase: float) -> None:
    """Paint a car from behind or the front."""
    body = pick(pen, PAINTWORK)
    glass = (44, 54, 66)
    pen.poly([(0.18, 0.0), (0.82, 0.0), (0.95, 0.42), (0.05, 0.42)], shade(body, 0.9))
    pen.poly([(0.23, 0.06), (0.77, 0.06), (0.86, 0.38), (0.14, 0.38)], glass)
    pen.poly([(0.03, 0.4), (0.97, 0.4), (1.0, 0.86), (0.0, 0.86)], body)
    for x in (0.08, 0.76):
        pen.rect(x, 0.8, x + 0.16, 1.0, RUBBER)
    lamp = (190, 24, 24) if pen.rng.random() < 0.6 else (238, 236, 210)
    for x in (0.04, 0.8):
        pen.rect(x, 0.48, x + 0.16, 0.6, lamp)
    pen.rect(0.36, 0.64, 0.64, 0.74, (226, 226, 218))


def _wheels(pen: Pen, xs: tuple[float, ...], radius: float) -> None:
    for x in xs:
        pen.disc(x, 1.0 - radius, radius, RUBBER)
        pen.disc(x, 1.0 - radius, radius * 0.45, STEEL)


def lorry(pen: Pen, phase: float) -> None:
    """Paint a lorry from behind."""
    body = pick(pen, PAINTWORK)
    pen.rect(0.05, 0.88, 0.95, 0.95, (40, 40, 44))
    for x in (0.08, 0.72):
        pen.rect(x, 0.88, x + 0.2, 1.0, RUBBER)
    pen.rect(0.0, 0.0, 1.0, 0.9, body)
    pen.rect(0.03, 0.03, 0.49, 0.86, shade(body, 0.94))
    pen.rect(0.51, 0.03, 0.97, 0.86, shade(body, 0.94))
    for x in (0.03, 0.87):
        pen.rect(x, 0.84, x + 0.1, 0.89, (190, 24, 24))


def lorry_with_cones(pen: Pen, phase: float) -> None:
    """Paint a flat-bed lorry that carries cones: nothing stands on the road."""
    cab = pick(pen, PAINTWORK)
    pen.poly([(0.74, 0.18), (0.93, 0.18), (1.0, 0.5), (1.0, 0.86), (0.74, 0.86)], cab)
    pen.poly([(0.84, 0.24), (0.92, 0.24), (0.97, 0.48), (0.84, 0.48)], (44, 54, 66))
    pen.rect(0.0, 0.62, 0.74, 0.84, shade(STEEL, 0.7))
    pen.rect(0.0, 0.5, 0.74, 0.62, shade(cab, 0.8))
    count = int(pen.rng.integers(3, 6))
    for i in range(count):
        x, body = 0.07 + 0.62 * i / max(1, count - 1) * 0.95, pick(pen, ORANGE)
        for j in range(int(pen.rng.integers(1, 4))):
            up = 0.05 * j
            pen.poly([(x - 0.01, 0.2 - up), (x + 0.01, 0.2 - up), (x + 0.055, 0.5 - up), (x - 0.055, 0.5 - up)], body)
            pen.poly(
                [(x - 0.024, 0.3 - up), (x + 0.024, 0.3 - up), (x + 0.034, 0.37 - up), (x - 0.034, 0.37 - up)], WHITE
            )
    _wheels(pen, (0.14, 0.3, 0.86), 0.13)


def _digger(pen: Pen, body: Colour, phase: float, bottom: float, left: float, width: float, tall: float) -> None:
    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * width, bottom - (1 - y) * tall

    pen.poly([at(0.06, 0.8), at(0.56, 0.8), at(0.62, 0.9), at(0.56, 1.0), at(0.06, 1.0), at(0.0, 0.9)], RUBBER)
    pen.poly([at(0.04, 0.52), at(0.5, 0.52), at(0.54, 0.78), at(0.04, 0.78)], body)
    pen.poly([at(0.28, 0.22), at(0.48, 0.22), at(0.54, 0.56), at(0.28, 0.56)], shade(body, 0.9))
    pen.poly([at(0.32, 0.27), at(0.46, 0.27), at(0.5, 0.5), at(0.32, 0.5)], (50, 62, 74))
    swing = math.sin(phase * 2 * math.pi)
    elbow = (0.66 + 0.03 * swing, 0.12 + 0.13 * swing)
    wrist = (0.84 + 0.09 * swing, 0.5 + 0.24 * swing)
    pen.line([at(0.5, 0.62), at(*elbow)], 0.075 * tall, body)
    pen.line([at(*elbow), at(*wrist)], 0.06 * tall, shade(body, 0.92))
    pen.poly([at(wrist[0] - 0.07, wrist[1]), at(wrist[0] + 0.08, wrist[1] - 0.02), at(wrist[0] + 0.06, wrist[1] + 0.15),
              at(wrist[0] - 0.1, wrist[1] + 0.13)], (70, 70, 72))  # fmt: skip


def excavator(pen: Pen, phase: float) -> None:
    """Paint an excavator."""
    _digger(pen, pick(pen, MACHINE), phase, 1.0, 0.0, 1.0, 1.0)


def roller(pen: Pen, phase: float) -> None:
    """Paint a road roller."""
    body = pick(pen, MACHINE)
    pen.poly([(0.3, 0.0), (0.74, 0.0), (0.74, 0.06), (0.3, 0.06)], shade(body, 0.9))
    for x in (0.32, 0.7):
        pen.rect(x, 0.05, x + 0.03, 0.45, (60, 60, 64))
    pen.poly([(0.3, 0.42), (0.98, 0.42), (1.0, 0.72), (0.3, 0.72)], body)
    pen.disc(0.8, 0.77, 0.23, RUBBER)
    pen.disc(0.22, 0.72, 0.28, (150, 150, 152))
    spoke = phase * 2 * math.pi
    dx, dy = 0.2 * math.cos(spoke) * pen.h / pen.w, 0.2 * math.sin(spoke)
    pen.line([(0.22 - dx, 0.72 - dy), (0.22 + dx, 0.72 + dy)], 0.05, (90, 90, 92))
    pen.line([(0.22, 0.72), (0.4, 0.55)], 0.06, shade(body, 0.8))


def low_loader(pen: Pen, phase: float) -> None:
    """Paint a machine strapped to a trailer, not at work."""
    _digger(pen, pick(pen, MACHINE), 0.6, 0.76, 0.04, 0.56, 0.68)
    cab = pick(pen, PAINTWORK)
    pen.poly([(0.78, 0.3), (0.94, 0.3), (1.0, 0.55), (1.0, 0.88), (0.78, 0.88)], cab)
    pen.poly([(0.86, 0.35), (0.93, 0.35), (0.97, 0.53), (0.86, 0.53)], (44, 54, 66))
    pen.rect(0.0, 0.76, 0.8, 0.86, (70, 72, 78))
    pen.rect(0.66, 0.64, 0.8, 0.8, (70, 72, 78))
    _wheels(pen, (0.08, 0.18, 0.28, 0.74, 0.9), 0.11)


def parked_cones(pen: Pen, phase: float) -> None:
    """Paint stacked cones against a wall or among parked cars."""
    body = pick(pen, ORANGE)
    for x, layers in ((0.28, int(pen.rng.integers(3, 7))), (0.72, int(pen.rng.integers(2, 6)))):
        for j in range(layers):
            up = 0.09 * j
            pen.rect(x - 0.24, 0.95 - up, x + 0.24, 1.0 - up, shade(body, 0.7))
            pen.poly([(x - 0.04, 0.5 - up), (x + 0.04, 0.5 - up), (x + 0.2, 0.96 - up), (x - 0.2, 0.96 - up)], body)
            pen.poly(
                [(x - 0.09, 0.64 - up), (x + 0.09, 0.64 - up), (x + 0.14, 0.77 - up), (x - 0.14, 0.77 - up)], WHITE
            )


def bin(pen: Pen, phase: float) -> None:
    """Paint a litter bin, a post box or a sack in a bright colour."""
    body = pick(pen, (*ORANGE, (200, 30, 34), (250, 200, 30)))
    style = pen.rng.random()
    if style < 0.4:
        pen.rect(0.15, 0.18, 0.85, 1.0, body)
        pen.rect(0.08, 0.08, 0.92, 0.2, shade(body, 0.75))
        pen.rect(0.3, 0.3, 0.7, 0.4, shade(body, 0.4))
    elif style < 0.7:
        pen.oval(0.05, 0.25, 0.95, 1.0, body)
        pen.poly([(0.4, 0.3), (0.6, 0.3), (0.7, 0.1), (0.3, 0.1)], shade(body, 0.85))
    else:
        pen.rect(0.2, 0.12, 0.8, 1.0, body)
        pen.oval(0.2, 0.0, 0.8, 0.24, shade(body, 1.1))
        pen.rect(0.3, 0.26, 0.7, 0.32, shade(body, 0.35))


Painter = Callable[[Pen, float], None]

# Name -> (shape, painter). The two kinds of machine have a painter each.
PAINTERS: dict[str, tuple[Shape, Painter]] = {
    "cone": (Shape((0.6, 0.95), 0.62), cone),
    "barrel": (Shape((0.95, 1.15), 0.6), barrel),
    "barrier": (Shape((1.0, 1.4), 1.5), barrier),
    "arrow_board": (Shape((2.2, 3.0), 0.95), arrow_board),
    "worker": (Shape((1.65, 1.9), 0.46), worker),
    "excavator": (Shape((2.8, 3.4), 1.35), excavator),
    "roller": (Shape((2.3, 2.8), 1.35), roller),
    "cyclist": (Shape((1.6, 1.8), 0.95), cyclist),
    "pedestrian": (Shape((1.6, 1.85), 0.42), pedestrian),
    "car": (Shape((1.4, 1.7), 1.2), car),
    "lorry": (Shape((3.2, 3.8), 0.72), lorry),
    "lorry_with_cones": (Shape((2.2, 2.6), 2.3), lorry_with_cones),
    "low_loader": (Shape((3.2, 3.7), 2.3), low_loader),
    "parked_cones": (Shape((1.0, 1.3), 1.0), parked_cones),
    "bin": (Shape((0.75, 1.15), 0.62), bin),
}
