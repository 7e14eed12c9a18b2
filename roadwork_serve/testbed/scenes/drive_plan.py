"""Plans of rendered drives: a road with work zones, the speed of the car, and the truth of every pass."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.testbed.scenes.camera import Camera
from roadwork_serve.testbed.scenes.plan import Conditions, Light, SceneObject
from roadwork_serve.testbed.scenes.scene_builder import CONSPICUOUSNESS, MACHINES, SceneBuilder

Floats = NDArray[np.float64]
SIZE = (1280, 720)
IN_SIGHT_PX = 20.0  # height of a cone in the picture from which on a person would notice it
PASSED_M = 3.0  # nearer things are out of the picture
_DRAWN_M = 90.0
_STEP_S = 0.1
_CRUISE, _ACCELERATION = 11.0, 2.0  # metres per second, and per second squared
_LATITUDE, _LONGITUDE = 48.15, 11.55
_METRES_PER_DEGREE = 111_195.08


@dataclass(frozen=True, slots=True)
class PlannedZone:
    """A work zone along the road."""

    #: Metres along the road of its first and its last object.
    begin_m: float
    end_m: float
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True, slots=True)
class DrivePlan:
    """A road and a drive along it. Other passes have the same road with fewer zones, another speed or light."""

    seed: int
    camera: Camera
    conditions: Conditions
    edges: tuple[float, float]
    zones: tuple[PlannedZone, ...]
    #: Things beside the road that are no road work.
    others: tuple[SceneObject, ...]
    #: Metres along the road, every tenth of a second.
    travelled_m: Floats

    @property
    def seconds(self) -> float:
        """Length of the drive."""
        return (len(self.travelled_m) - 1) * _STEP_S

    def metres_at(self, time_s: float) -> float:
        """Return the distance that the car has driven."""
        return float(np.interp(time_s / _STEP_S, np.arange(len(self.travelled_m)), self.travelled_m))

    def place_at(self, metres: float) -> tuple[float, float]:
        """Return latitude and longitude of a point of the road, which winds."""
        east, north = _road(metres)
        latitude = _LATITUDE + north / _METRES_PER_DEGREE
        return latitude, _LONGITUDE + east / (_METRES_PER_DEGREE * math.cos(math.radians(_LATITUDE)))

    def sights(self) -> list[tuple[float, float]]:
        """Return begin and end in seconds of the times at which each zone is in sight."""
        times = np.arange(len(self.travelled_m)) * _STEP_S
        found: list[tuple[float, float]] = []
        for zone in self.zones:
            begin_m = min(each.z - self._sight_m(each) for each in zone.objects)
            seen = times[(self.travelled_m >= begin_m) & (self.travelled_m <= zone.end_m - PASSED_M)]
            found.append((float(seen[0]), float(seen[-1])))
        return found

    def _sight_m(self, item: SceneObject) -> float:
        """Return the distance at which a thing is as conspicuous as a cone of `IN_SIGHT_PX` pixels."""
        tall = self.camera.focal * self.camera.width * item.height_m
        return min(_DRAWN_M, tall / (IN_SIGHT_PX * CONSPICUOUSNESS[item.painter]))

    def near(self, metres: float) -> tuple[SceneObject, ...]:
        """Return the things that are in sight from a point of the road."""
        every = (*self.others, *(each for zone in self.zones for each in zone.objects))
        return tuple(each for each in every if metres + 1.0 < each.z < metres + _DRAWN_M)


def plan_drive(
    seed: int, seconds: float, zones: int, gone: frozenset[int] = frozenset(), light: Light = "day", pass_seed: int = 0
) -> DrivePlan:
    """Return a drive.

    Args:
        seed: The road and its zones follow from it.
        seconds: Approximate length of the drive, with stops at lights on the way.
        zones: Number of work zones along the road.
        gone: Numbers of the zones that have ended.
        light: Light of the day.
        pass_seed: The speed follows from it.

    """
    rng = np.random.default_rng([seed, 7])
    camera = Camera(*SIZE, horizon=0.46, centre=0.5, focal=0.9, above_m=1.4, curve=0.0)
    builder = SceneBuilder(rng, camera, (-5.25, 1.75))
    length_m = seconds * _CRUISE * 0.8
    spacing = length_m / zones
    planned = [_zone(builder, (at + 0.3) * spacing + builder.uniform(0, 0.2 * spacing)) for at in range(zones)]
    others = _others(builder, length_m, planned)
    pace = np.random.default_rng([seed, 11, pass_seed])
    conditions = Conditions(
        setting="country",
        light=light,
        weather="clear",
        gain=(1.0, 1.0, 1.0),
        fog=0.0,
        blur=0.0005,
        noise=5.0 if light == "night" else 2.0,
        quality=88,
        bonnet=False,
    )
    kept = tuple(each for number, each in enumerate(planned) if number not in gone)
    return DrivePlan(seed, camera, conditions, builder.edges, kept, others, _travelled(pace, length_m))


def _zone(builder: SceneBuilder, begin_m: float) -> PlannedZone:
    """Return a closed lane on the right: a row of cones or barriers with work behind it."""
    marker = builder.choice("cone", "cone", "barrel", "barrier")
    length = builder.uniform(25, 60)
    tall, inner, outer = builder.height(marker), builder.edges[1] - builder.uniform(0.4, 1.2), builder.edges[1] + 0.8
    first = len(builder.objects)
    metres = 0.0
    while metres <= length:
        across = outer + (inner - outer) * min(1.0, metres / 10.0)
        builder.put(marker, across + builder.uniform(-0.1, 0.1), begin_m + metres, tall)
        metres += builder.uniform(2.5, 4.5)
    for _ in range(int(builder.rng.integers(1, 4))):
        at = begin_m + builder.uniform(8, length)
        builder.put("worker", outer + builder.uniform(0, 1.2), at, cycle_hz=builder.uniform(0.4, 1.2))
    if builder.chance(0.6):
        at = begin_m + builder.uniform(12, length)
        builder.put(builder.choice(*MACHINES), outer + builder.uniform(1.0, 2.0), at, cycle_hz=0.5)
    objects = tuple(builder.objects[first:])
    return PlannedZone(begin_m, max(each.z for each in objects), objects)


def _others(builder: SceneBuilder, length_m: float, zones: list[PlannedZone]) -> tuple[SceneObject, ...]:
    """Return parked cars, people and bins away from the zones."""
    first = len(builder.objects)
    for _ in range(round(length_m / 60)):
        at = builder.uniform(20, length_m)
        if any(zone.begin_m - 30 <= at <= zone.end_m + 10 for zone in zones):
            continue
        painter = builder.choice("car", "car", "car", "pedestrian", "bin")
        side = builder.edges[1] + builder.uniform(1.4, 3.0) if builder.chance(0.6) else builder.edges[0] - 2.2
        builder.put(painter, side, at)
    return tuple(builder.objects[first:])


def _travelled(rng: np.random.Generator, length_m: float) -> Floats:
    """Return metres along the road every tenth of a second: cruising, with stops of 10 to 30 s at lights."""
    lights = np.arange(rng.uniform(200, 400), length_m, 900.0)
    waits = rng.uniform(10, 30, len(lights))
    cruise = _CRUISE * rng.uniform(0.9, 1.1)
    found, metres, speed, light, waited = [0.0], 0.0, cruise, 0, 0.0
    while metres < length_m:
        ahead = lights[light] - metres if light < len(lights) else math.inf
        if ahead < 0.3 and waited < waits[light]:
            speed, waited = 0.0, waited + _STEP_S
        else:
            if light < len(lights) and waited >= waits[light]:
                light, waited, ahead = light + 1, 0.0, math.inf
            slowest = math.sqrt(max(0.0, 2 * _ACCELERATION * ahead)) if ahead < 60 else cruise
            speed = min(speed + _ACCELERATION * _STEP_S, cruise, max(slowest, 0.3))
        metres += speed * _STEP_S
        found.append(metres)
    return np.array(found)


def _road(metres: float) -> tuple[float, float]:
    """Return metres east and north of the start of a road that winds gently."""
    east = metres * math.sin(0.6) + 60 * math.sin(metres / 400)
    return east, metres * math.cos(0.6)
