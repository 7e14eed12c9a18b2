"""The deck of scenes: which stories are told how often, and which stage each is made for.

The rule. *Active* means workers at work, running machines, or an open coned-off or barriered work area on or
beside the road; a single small cone, barrier, worker or machine placed on the road counts. Not active: what is
left behind an END sign, cones on a lorry or in a car park, orange cars and bins, hi-vis cyclists, a machine on a
low-loader, boards about other things, advertising in sign colours; in clips also a machine that only stands there.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from roadwork_serve.testbed.scenes.camera import Camera
from roadwork_serve.testbed.scenes.casting import MACHINES, SceneBuilder
from roadwork_serve.testbed.scenes.plan import Conditions, Scene
from roadwork_serve.testbed.scenes.truth import Activity, StageName, Thing, Truth

SIZES = (((960, 720), 0.5), ((1280, 720), 0.15), ((1280, 960), 0.1), ((800, 600), 0.15), ((640, 480), 0.1))
CLIP_SIZE = (640, 480)
PLAIN = (19.0, 46.0)  # height of a cone at a glance, pixels of 224: nobody can miss it
SMALL = (8.5, 13.0)  # there, but a glance cannot say what it is
SIGN_PX = (78.0, 140.0)  # width of a sign's face, pixels of the full-size picture


@dataclass(frozen=True, slots=True)
class Scenario:
    """How a scene came out."""

    label: bool
    activity: Activity
    needs: StageName


def stage_still(seed: int) -> Scene:
    """The still that belongs to the seed."""
    rng = np.random.default_rng([seed, 0])
    size = SIZES[int(rng.choice(len(SIZES), p=[share for _, share in SIZES]))][0]
    stage = _empty(rng, size)
    u = rng.random()
    car_park = None
    if u < 0.23:
        story = _work_area(stage)
    elif u < 0.34:
        story = _one_thing(stage, PLAIN, "backbone")
    elif u < 0.54:
        story = Scenario(False, "none", "backbone")
    elif u < 0.70:
        story, car_park = _lookalike(stage, PLAIN, "backbone")
    elif u < 0.82:
        story = _told_by_sign(stage)
    elif u < 0.89:
        story = _one_thing(stage, SMALL, "vlm")
    elif u < 0.96:
        story, car_park = _lookalike(stage, SMALL, "vlm")
    else:
        story, car_park = _mixed(stage)
    _bystanders(stage, traffic=4 if u < 0.7 else 2)
    return _scene(seed, "photo", stage, story, car_park, 0.0)


def stage_clip(seed: int) -> Scene:
    """The clip that belongs to the seed."""
    rng = np.random.default_rng([seed, 0])
    stage = _empty(rng, CLIP_SIZE)
    car_park = None
    u = rng.random()
    if u < 0.2:
        story = _work_area(stage)
        speed = stage.uniform(0, 2.0)
    elif u < 0.27:
        story = _one_thing(stage, (22.0, 40.0), "backbone")
        speed = 0.0
    elif u < 0.42:
        story = Scenario(False, "none", "backbone")
        speed = stage.uniform(0, 8.0)
    elif u < 0.52:
        story, car_park = _lookalike(stage, (22.0, 40.0), "backbone")
        speed = 0.0
    elif u < 0.58:
        story = _told_by_sign(stage)
        speed = stage.uniform(0, 0.5)
    else:
        story = _machine_at_the_verge(stage)
        speed = stage.uniform(0, 0.6) if stage.chance(0.5) else 0.0
    _bystanders(stage, traffic=3)
    return _scene(seed, "clip", stage, story, car_park, speed)


def _empty(rng: np.random.Generator, size: tuple[int, int]) -> SceneBuilder:
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


def _look(rng: np.random.Generator, told_by_sign: bool) -> Conditions:
    light = str(rng.choice(("day", "overcast", "dusk", "night"), p=(0.5, 0.27, 0.11, 0.12)))
    weather = str(rng.choice(("clear", "rain", "fog", "snow"), p=(0.74, 0.12, 0.08, 0.06)))
    base = float(rng.uniform(0.85, 1.12))
    warm = float(rng.uniform(-0.06, 0.06)) + (0.06 if light == "dusk" else 0.0)
    return Conditions(
        setting=str(rng.choice(("town", "country", "motorway"), p=(0.45, 0.33, 0.22))),  # type: ignore[arg-type]
        light=light,  # type: ignore[arg-type]
        weather=weather,  # type: ignore[arg-type]
        gain=(base * (1 + warm), base, base * (1 - warm)),
        fog=float(rng.uniform(0.45, 0.8)) * (0.6 if told_by_sign else 1.0) if weather == "fog" else 0.0,
        blur=float(rng.uniform(0.0003, 0.0007 if told_by_sign else 0.0013)),
        noise=float(rng.uniform(0.5, 6.0)) + (3.0 if light == "night" else 0.0),
        quality=int(rng.integers(62, 93)),
        bonnet=bool(rng.random() < 0.22),
    )


def _work_area(stage: SceneBuilder) -> Scenario:
    """A taper of cones, barrels or barriers with work behind it."""
    marker = stage.choice("cone", "cone", "cone", "barrel", "barrier")
    z = stage.distance(stage.height(marker), stage.uniform(22, 44))
    side = 1 if stage.chance(0.7) else -1
    outer = stage.edges[1] + 0.8 if side > 0 else stage.edges[0] - 0.8
    inner = outer - side * stage.uniform(1.4, 4.2)
    count = int(stage.rng.integers(4, 9))
    tall = stage.height(marker)
    for i in range(count):
        across = outer + (inner - outer) * min(1.0, i / max(2, count - 2))
        stage.put(marker, across + stage.uniform(-0.15, 0.15), z + i * stage.uniform(1.6, 2.6), tall)
    activity: Activity = "open_area"
    area = lambda: outer + side * stage.uniform(-1.4, 1.2)  # noqa: E731
    if stage.chance(0.6):
        activity = "working"
        for _ in range(int(stage.rng.integers(1, 4))):
            stage.put(
                "worker", area(), z + stage.uniform(2, 9), cycle_hz=stage.uniform(0.4, 1.2), phase=stage.uniform(0, 1)
            )
    if stage.chance(0.5):
        activity = "working"
        painter = stage.choice(*MACHINES)
        stage.put(
            painter,
            area() + side,
            z + stage.uniform(5, 13),
            cycle_hz=stage.uniform(0.3, 0.7),
            phase=stage.uniform(0, 1),
        )
    if stage.chance(0.25):
        stage.put("arrow_board", outer, z + stage.uniform(1, 4), cycle_hz=1.0)
    if stage.chance(0.35):
        kind = stage.choice("sign_begin", "sign_closure", "sign_worker", "sign_detour")
        stage.put_sign(kind, stage.uniform(40, 150))  # type: ignore[arg-type]
    return Scenario(True, activity, "backbone")


def _one_thing(stage: SceneBuilder, glance_px: tuple[float, float], needs: StageName) -> Scenario:
    """One cone, barrier, worker or machine placed on the road."""
    painter = stage.choice("cone", "cone", "barrier", "barrel", "worker", "excavator", "roller")
    busy = painter in (*MACHINES, "worker")
    stage.put_sized(
        painter, stage.uniform(*glance_px), on_road=True, cycle_hz=0.6 if busy else 0.0, phase=stage.uniform(0, 1)
    )
    return Scenario(True, "single_object", needs)


CarPark = tuple[float, float, float, float] | None


def _lookalike(stage: SceneBuilder, glance_px: tuple[float, float], needs: StageName) -> tuple[Scenario, CarPark]:
    """Something that shares a colour or a shape with road work and is none."""
    painter = stage.choice(
        "lorry_with_cones", "low_loader", "cyclist", "cyclist", "bin", "bin", "pedestrian", "car_park"
    )
    px = stage.uniform(*glance_px)
    if painter == "car_park":
        return Scenario(False, "none", needs), _car_park(stage, px)
    if painter in ("bin", "pedestrian"):
        for _ in range(int(stage.rng.integers(1, 3))):
            stage.put_sized(painter, px, on_road=False)
    else:
        way = 1.2 if painter == "cyclist" else 3.0
        stage.put_sized(
            painter, px, on_road=True, vx=stage.uniform(-way, way), cycle_hz=1.0 if painter == "cyclist" else 0.0
        )
    return Scenario(False, "none", needs), None


def _car_park(stage: SceneBuilder, glance_px: float) -> CarPark:
    """Stacked cones among parked cars in a yard off the road."""
    side = 1 if stage.chance(0.6) else -1
    tall = stage.height("parked_cones")
    z = stage.distance(tall, glance_px * 1.15)
    edge = stage.edges[1] if side > 0 else stage.edges[0]
    near, far = edge + side * 1.0, edge + side * 9.0
    x = stage.inside(edge + side * stage.uniform(1.6, 3.2), z, tall, 1.0)
    stage.put("parked_cones", x, z, tall)
    for i in range(4):
        stage.put_if_free("car", edge + side * stage.uniform(4.5, 7.5), z + 3.0 + 2.7 * i)
    return (min(near, far), max(near, far), max(2.0, z - 8), z + 16)


def _told_by_sign(stage: SceneBuilder) -> Scenario:
    """A few far cones that tell nothing, and a sign that says what they mean."""
    if stage.chance(0.5):
        kind = stage.choice("sign_begin", "sign_begin", "sign_closure", "sign_detour", "sign_worker")
        story = Scenario(True, "announced", "signs")
    else:
        kind = stage.choice("sign_end", "sign_end", "sign_neutral")
        story = Scenario(False, "left_behind" if kind == "sign_end" else "none", "signs")
    wide = stage.camera.width / 960
    face_px = stage.uniform(*SIGN_PX) * max(0.82, min(wide, 1.15))
    stage.put_sign(kind, face_px)  # type: ignore[arg-type]
    for _ in range(int(stage.rng.integers(1, 4))):
        stage.put_sized("cone", stage.uniform(3.5, 6.5), on_road=False)
    return story


def _mixed(stage: SceneBuilder) -> tuple[Scenario, CarPark]:
    """Cues that disagree: something harmless and, half of the time, something small that counts."""
    _, car_park = _lookalike(stage, (9.5, 15.0), "reasoner")
    if stage.chance(0.5):
        painter = stage.choice("cone", "barrier", "barrel", "worker")
        stage.put_sized(painter, stage.uniform(9.0, 13.0), on_road=True)
        return Scenario(True, "single_object", "reasoner"), car_park
    if car_park is None:
        stage.put_sized("bin", stage.uniform(9.0, 13.0), on_road=False)
    else:
        stage.put_sized("cyclist", stage.uniform(9.0, 13.0), on_road=True)
    return Scenario(False, "none", "reasoner"), car_park


def _machine_at_the_verge(stage: SceneBuilder) -> Scenario:
    """The same still either way; only movement tells whether anybody works here."""
    painter = stage.choice(*MACHINES)
    at_work = stage.chance(0.5)
    rate = stage.uniform(0.45, 0.9) if at_work else 0.0
    pace = stage.uniform(0.7, 1.4) * (1 if stage.chance(0.5) else -1) if at_work and painter == "roller" else 0.0
    stage.put_sized(painter, stage.uniform(30, 46), on_road=False, cycle_hz=rate, phase=stage.uniform(0, 1), vx=pace)
    if stage.chance(0.5):
        stage.put_sized("worker", stage.uniform(22, 32), on_road=False, cycle_hz=rate * 1.4, phase=stage.uniform(0, 1))
    return Scenario(at_work, "working" if at_work else "parked", "video")


def _bystanders(stage: SceneBuilder, traffic: int) -> None:
    """Traffic, people and boards that mean nothing, in every kind of scene alike."""
    for _ in range(int(stage.rng.integers(0, traffic + 1))):
        painter = "lorry" if stage.chance(0.18) else "car"
        z = stage.uniform(8, 60)
        lane = stage.uniform(stage.edges[0] + 1.2, stage.edges[1] - 1.2)
        stage.put_if_free(painter, lane, z, vz=stage.uniform(-6, 6))
    if stage.chance(0.3):
        tall = stage.height("pedestrian")
        z = stage.uniform(8, 40)
        stage.put_if_free("pedestrian", stage.beside(tall, 0.42, z), z, tall, cycle_hz=0.9)
    if stage.chance(0.12):
        z = stage.uniform(10, 40)
        stage.put_if_free("bin", stage.beside(1.0, 0.62, z), z)
    if stage.chance(0.15):
        stage.put_sign("sign_neutral", stage.uniform(30, 110), palette="advert")


def _scene(
    seed: int,
    media: Literal["photo", "clip"],
    stage: SceneBuilder,
    story: Scenario,
    car_park: CarPark,
    ego_speed: float,
) -> Scene:
    look = _look(stage.rng, story.needs == "signs")
    things = tuple(
        Thing(
            a.thing,
            stage.camera.share(stage.camera.box(a.x, a.y, a.z, a.height_m, a.aspect)),
            " ".join(a.board.lines) if a.board else "",
            a.moving,
        )
        for a in sorted(stage.actors, key=lambda a: -a.z)
    )
    tags = (look.setting, look.light, look.weather)
    truth = Truth(seed, media, story.label, story.needs, story.activity, things, tags)
    return Scene(seed, stage.camera, look, stage.edges, tuple(stage.actors), truth, ego_speed, car_park)
