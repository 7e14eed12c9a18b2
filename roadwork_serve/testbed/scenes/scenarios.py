"""The scenarios: how often each is drawn, and which stage it is made for.

Definition of the label. *Active* means workers at work, running machines, or an open coned-off or barriered work area
on or beside the road; a single small cone, barrier, worker or machine placed on the road counts. Not active: anything
left behind an END sign, cones on a lorry or in a car park, orange cars and bins, hi-vis cyclists, a machine on a
low-loader, boards about other things, advertising in sign colours; in clips also a machine that only stands there.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from roadwork_serve.testbed.scenes.camera import Camera
from roadwork_serve.testbed.scenes.plan import Conditions, Scene
from roadwork_serve.testbed.scenes.scene_builder import MACHINES, SceneBuilder
from roadwork_serve.testbed.scenes.truth import Activity, StageName, Thing, Truth

SIZES = (((960, 720), 0.5), ((1280, 720), 0.15), ((1280, 960), 0.1), ((800, 600), 0.15), ((640, 480), 0.1))
CLIP_SIZE = (640, 480)
PLAIN = (19.0, 46.0)  # height of a cone on the 224-pixel thumbnail of stage 1: obvious
SMALL = (8.5, 13.0)  # visible, but too small for stage 1 to recognise
SIGN_PX = (78.0, 140.0)  # width of a sign's face, pixels of the full-size picture


@dataclass(frozen=True, slots=True)
class Scenario:
    """The outcome of a scenario."""

    label: bool
    activity: Activity
    needs: StageName


def photo_scene(seed: int) -> Scene:
    """Return the photo scene of a seed."""
    rng = np.random.default_rng([seed, 0])
    size = SIZES[int(rng.choice(len(SIZES), p=[share for _, share in SIZES]))][0]
    builder = _empty_scene(rng, size)
    u = rng.random()
    car_park = None
    if u < 0.23:
        scenario = _work_area(builder)
    elif u < 0.34:
        scenario = _one_thing(builder, PLAIN, "backbone")
    elif u < 0.54:
        scenario = Scenario(False, "none", "backbone")
    elif u < 0.70:
        scenario, car_park = _lookalike(builder, PLAIN, "backbone")
    elif u < 0.82:
        scenario = _sign_decides(builder)
    elif u < 0.89:
        scenario = _one_thing(builder, SMALL, "vlm")
    elif u < 0.96:
        scenario, car_park = _lookalike(builder, SMALL, "vlm")
    else:
        scenario, car_park = _mixed(builder)
    _bystanders(builder, traffic=4 if u < 0.7 else 2)
    return _scene(seed, "photo", builder, scenario, car_park, 0.0)


def clip_scene(seed: int) -> Scene:
    """Return the clip scene of a seed."""
    rng = np.random.default_rng([seed, 0])
    builder = _empty_scene(rng, CLIP_SIZE)
    car_park = None
    u = rng.random()
    if u < 0.2:
        scenario = _work_area(builder)
        speed = builder.uniform(0, 2.0)
    elif u < 0.27:
        scenario = _one_thing(builder, (22.0, 40.0), "backbone")
        speed = 0.0
    elif u < 0.42:
        scenario = Scenario(False, "none", "backbone")
        speed = builder.uniform(0, 8.0)
    elif u < 0.52:
        scenario, car_park = _lookalike(builder, (22.0, 40.0), "backbone")
        speed = 0.0
    elif u < 0.58:
        scenario = _sign_decides(builder)
        speed = builder.uniform(0, 0.5)
    else:
        scenario = _machine_at_the_verge(builder)
        speed = builder.uniform(0, 0.6) if builder.chance(0.5) else 0.0
    _bystanders(builder, traffic=3)
    return _scene(seed, "clip", builder, scenario, car_park, speed)


def _empty_scene(rng: np.random.Generator, size: tuple[int, int]) -> SceneBuilder:
    camera = Camera(
        *size,
        horizon=float(rng.uniform(0.4, 0.52)),
        centre=float(rng.uniform(0.4, 0.6)),
        focal=float(rng.uniform(0.78, 1.05)),
        above_m=float(rng.uniform(1.2, 1.7)),
        curve=float(rng.normal(0, 0.0006)),
    )
    lanes_left, lanes_right = int(rng.integers(1, 3)), int(rng.integers(0, 2))
    shift = float(rng.uniform(-0.4, 0.4))
    edges = (-1.75 - 3.5 * lanes_left + shift, 1.75 + 3.5 * lanes_right + shift)
    if rng.random() < 0.3:  # traffic on the left
        edges = (-edges[1], -edges[0])
    return SceneBuilder(rng, camera, edges)


def _conditions(rng: np.random.Generator, readable_sign: bool) -> Conditions:
    light = str(rng.choice(("day", "overcast", "dusk", "night"), p=(0.5, 0.27, 0.11, 0.12)))
    weather = str(rng.choice(("clear", "rain", "fog", "snow"), p=(0.74, 0.12, 0.08, 0.06)))
    base = float(rng.uniform(0.85, 1.12))
    warm = float(rng.uniform(-0.06, 0.06)) + (0.06 if light == "dusk" else 0.0)
    return Conditions(
        setting=str(rng.choice(("town", "country", "motorway"), p=(0.45, 0.33, 0.22))),  # type: ignore[arg-type]
        light=light,  # type: ignore[arg-type]
        weather=weather,  # type: ignore[arg-type]
        gain=(base * (1 + warm), base, base * (1 - warm)),
        fog=float(rng.uniform(0.45, 0.8)) * (0.6 if readable_sign else 1.0) if weather == "fog" else 0.0,
        blur=float(rng.uniform(0.0003, 0.0007 if readable_sign else 0.0013)),
        noise=float(rng.uniform(0.5, 6.0)) + (3.0 if light == "night" else 0.0),
        quality=int(rng.integers(62, 93)),
        bonnet=bool(rng.random() < 0.22),
    )


def _work_area(builder: SceneBuilder) -> Scenario:
    """Place a taper of cones, barrels or barriers with work behind it."""
    marker = builder.choice("cone", "cone", "cone", "barrel", "barrier")
    z = builder.distance(builder.height(marker), builder.uniform(22, 44))
    side = 1 if builder.chance(0.7) else -1
    outer = builder.edges[1] + 0.8 if side > 0 else builder.edges[0] - 0.8
    inner = outer - side * builder.uniform(1.4, 4.2)
    count = int(builder.rng.integers(4, 9))
    tall = builder.height(marker)
    for i in range(count):
        across = outer + (inner - outer) * min(1.0, i / max(2, count - 2))
        builder.put(marker, across + builder.uniform(-0.15, 0.15), z + i * builder.uniform(1.6, 2.6), tall)
    activity: Activity = "open_area"
    area = lambda: outer + side * builder.uniform(-1.4, 1.2)  # noqa: E731
    if builder.chance(0.6):
        activity = "working"
        for _ in range(int(builder.rng.integers(1, 4))):
            builder.put(
                "worker",
                area(),
                z + builder.uniform(2, 9),
                cycle_hz=builder.uniform(0.4, 1.2),
                phase=builder.uniform(0, 1),
            )
    if builder.chance(0.5):
        activity = "working"
        painter = builder.choice(*MACHINES)
        builder.put(
            painter,
            area() + side,
            z + builder.uniform(5, 13),
            cycle_hz=builder.uniform(0.3, 0.7),
            phase=builder.uniform(0, 1),
        )
    if builder.chance(0.25):
        builder.put("arrow_board", outer, z + builder.uniform(1, 4), cycle_hz=1.0)
    if builder.chance(0.35):
        kind = builder.choice("sign_begin", "sign_closure", "sign_worker", "sign_detour")
        builder.put_sign(kind, builder.uniform(40, 150))  # type: ignore[arg-type]
    return Scenario(True, activity, "backbone")


def _one_thing(builder: SceneBuilder, thumb_px: tuple[float, float], needs: StageName) -> Scenario:
    """Place one cone, barrier, worker or machine on the road."""
    painter = builder.choice("cone", "cone", "barrier", "barrel", "worker", "excavator", "roller")
    busy = painter in (*MACHINES, "worker")
    builder.put_sized(
        painter, builder.uniform(*thumb_px), on_road=True, cycle_hz=0.6 if busy else 0.0, phase=builder.uniform(0, 1)
    )
    return Scenario(True, "single_object", needs)


CarPark = tuple[float, float, float, float] | None


def _lookalike(builder: SceneBuilder, thumb_px: tuple[float, float], needs: StageName) -> tuple[Scenario, CarPark]:
    """Place something that shares a colour or a shape with road work and is none."""
    painter = builder.choice(
        "lorry_with_cones", "low_loader", "cyclist", "cyclist", "bin", "bin", "pedestrian", "car_park"
    )
    px = builder.uniform(*thumb_px)
    if painter == "car_park":
        return Scenario(False, "none", needs), _car_park(builder, px)
    if painter in ("bin", "pedestrian"):
        for _ in range(int(builder.rng.integers(1, 3))):
            builder.put_sized(painter, px, on_road=False)
    else:
        speed = 1.2 if painter == "cyclist" else 3.0
        builder.put_sized(
            painter, px, on_road=True, vx=builder.uniform(-speed, speed), cycle_hz=1.0 if painter == "cyclist" else 0.0
        )
    return Scenario(False, "none", needs), None


def _car_park(builder: SceneBuilder, thumb_px: float) -> CarPark:
    """Place stacked cones among parked cars in a yard off the road."""
    side = 1 if builder.chance(0.6) else -1
    tall = builder.height("parked_cones")
    z = builder.distance(tall, thumb_px * 1.15)
    edge = builder.edges[1] if side > 0 else builder.edges[0]
    near, far = edge + side * 1.0, edge + side * 9.0
    x = builder.inside(edge + side * builder.uniform(1.6, 3.2), z, tall, 1.0)
    builder.put("parked_cones", x, z, tall)
    for i in range(4):
        builder.put_if_free("car", edge + side * builder.uniform(4.5, 7.5), z + 3.0 + 2.7 * i)
    return (min(near, far), max(near, far), max(2.0, z - 8), z + 16)


def _sign_decides(builder: SceneBuilder) -> Scenario:
    """Place a few distant cones that are ambiguous, and a sign that settles the label."""
    if builder.chance(0.5):
        kind = builder.choice("sign_begin", "sign_begin", "sign_closure", "sign_detour", "sign_worker")
        scenario = Scenario(True, "announced", "signs")
    else:
        kind = builder.choice("sign_end", "sign_end", "sign_neutral")
        scenario = Scenario(False, "left_behind" if kind == "sign_end" else "none", "signs")
    wide = builder.camera.width / 960
    face_px = builder.uniform(*SIGN_PX) * max(0.82, min(wide, 1.15))
    builder.put_sign(kind, face_px)  # type: ignore[arg-type]
    for _ in range(int(builder.rng.integers(1, 4))):
        builder.put_sized("cone", builder.uniform(3.5, 6.5), on_road=False)
    return scenario


def _mixed(builder: SceneBuilder) -> tuple[Scenario, CarPark]:
    """Place contradictory cues: a lookalike and, half of the time, something small that is road work."""
    _, car_park = _lookalike(builder, (9.5, 15.0), "reasoner")
    if builder.chance(0.5):
        painter = builder.choice("cone", "barrier", "barrel", "worker")
        builder.put_sized(painter, builder.uniform(9.0, 13.0), on_road=True)
        return Scenario(True, "single_object", "reasoner"), car_park
    if car_park is None:
        builder.put_sized("bin", builder.uniform(9.0, 13.0), on_road=False)
    else:
        builder.put_sized("cyclist", builder.uniform(9.0, 13.0), on_road=True)
    return Scenario(False, "none", "reasoner"), car_park


def _machine_at_the_verge(builder: SceneBuilder) -> Scenario:
    """Place a machine at the verge; only its movement shows whether it is at work."""
    painter = builder.choice(*MACHINES)
    at_work = builder.chance(0.5)
    rate = builder.uniform(0.45, 0.9) if at_work else 0.0
    vx = builder.uniform(0.7, 1.4) * (1 if builder.chance(0.5) else -1) if at_work and painter == "roller" else 0.0
    builder.put_sized(
        painter, builder.uniform(30, 46), on_road=False, cycle_hz=rate, phase=builder.uniform(0, 1), vx=vx
    )
    if builder.chance(0.5):
        builder.put_sized(
            "worker", builder.uniform(22, 32), on_road=False, cycle_hz=rate * 1.4, phase=builder.uniform(0, 1)
        )
    return Scenario(at_work, "working" if at_work else "parked", "video")


def _bystanders(builder: SceneBuilder, traffic: int) -> None:
    """Add traffic, people and boards that carry no evidence, alike in every scenario."""
    for _ in range(int(builder.rng.integers(0, traffic + 1))):
        painter = "lorry" if builder.chance(0.18) else "car"
        z = builder.uniform(8, 60)
        lane = builder.uniform(builder.edges[0] + 1.2, builder.edges[1] - 1.2)
        builder.put_if_free(painter, lane, z, vz=builder.uniform(-6, 6))
    if builder.chance(0.3):
        tall = builder.height("pedestrian")
        z = builder.uniform(8, 40)
        builder.put_if_free("pedestrian", builder.beside(tall, 0.42, z), z, tall, cycle_hz=0.9)
    if builder.chance(0.12):
        z = builder.uniform(10, 40)
        builder.put_if_free("bin", builder.beside(1.0, 0.62, z), z)
    if builder.chance(0.15):
        builder.put_sign("sign_neutral", builder.uniform(30, 110), palette="advert")


def _scene(
    seed: int,
    media: Literal["photo", "clip"],
    builder: SceneBuilder,
    scenario: Scenario,
    car_park: CarPark,
    ego_speed: float,
) -> Scene:
    conditions = _conditions(builder.rng, scenario.needs == "signs")
    things = tuple(
        Thing(
            a.kind,
            builder.camera.share(builder.camera.box(a.x, a.y, a.z, a.height_m, a.aspect)),
            " ".join(a.board.lines) if a.board else "",
            a.moving,
        )
        for a in sorted(builder.objects, key=lambda each: -each.z)
    )
    tags = (conditions.setting, conditions.light, conditions.weather)
    truth = Truth(seed, media, scenario.label, scenario.needs, scenario.activity, things, tags)
    return Scene(seed, builder.camera, conditions, builder.edges, tuple(builder.objects), truth, ego_speed, car_park)
