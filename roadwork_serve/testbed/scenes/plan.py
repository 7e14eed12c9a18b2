"""The description of a scene before it is drawn: place, conditions, objects and ground truth."""

import math
from dataclasses import dataclass
from typing import Literal

from roadwork_serve.testbed.scenes.camera import Box, Camera
from roadwork_serve.testbed.scenes.signs import Board
from roadwork_serve.testbed.scenes.things import PAINTERS
from roadwork_serve.testbed.scenes.truth import ThingKind, Truth

Setting = Literal["town", "country", "motorway"]
Light = Literal["day", "overcast", "dusk", "night"]
Weather = Literal["clear", "rain", "fog", "snow"]


@dataclass(frozen=True, slots=True)
class Conditions:
    """Light, weather and camera quality."""

    setting: Setting
    light: Light
    weather: Weather
    #: Brightness factor of each colour channel.
    gain: tuple[float, float, float]
    #: Density, 0 to 1.
    fog: float
    #: Blur radius as a fraction of the width.
    blur: float
    #: Standard deviation in grey levels.
    noise: float
    #: JPEG quality.
    quality: int
    #: Whether the bonnet of the car is visible.
    bonnet: bool


@dataclass(frozen=True, slots=True)
class SceneObject:
    """Something that stands or moves in the scene."""

    #: Key of PAINTERS, or "sign".
    painter: str
    #: Its kind in the ground truth.
    kind: ThingKind
    #: Metres to the right of the camera.
    x: float
    #: Metres ahead of the camera.
    z: float
    height_m: float
    #: Seed of its appearance.
    style: int
    y: float = 0.0
    board: Board | None = None
    flip: bool = False
    #: Frequency of its moving parts; 0 when they stand still.
    cycle_hz: float = 0.0
    phase: float = 0.0
    #: Its own speed to the right, metres per second.
    vx: float = 0.0
    #: Its own speed ahead, metres per second.
    vz: float = 0.0

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.board.aspect if self.board else PAINTERS[self.painter][0].aspect

    @property
    def moving(self) -> bool:
        """True if a clip shows it at work or on the move."""
        return bool(self.cycle_hz or self.vx or self.vz)

    def box(self, camera: Camera, travelled_m: float, at_s: float) -> Box | None:
        """Return its pixel box after at_s seconds and travelled_m metres; None when it is passed or too far."""
        z = self.z + self.vz * at_s - travelled_m
        if z < 1.5 or z > 150:
            return None
        to_and_fro = self.painter == "roller" and self.vx
        x = self.x + (math.sin(at_s * 2.2) if to_and_fro else at_s) * self.vx
        return camera.box(x, self.y, z, self.height_m, self.aspect)

    def phase_at(self, at_s: float) -> float:
        """Return the number of cycles its moving parts have completed."""
        return self.phase + self.cycle_hz * at_s


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything needed to draw a photo or clip."""

    seed: int
    camera: Camera
    conditions: Conditions
    #: Left and right border of the carriageway, metres.
    edges: tuple[float, float]
    objects: tuple[SceneObject, ...]
    truth: Truth
    #: Speed of the camera, metres per second.
    ego_speed: float = 0.0
    #: x0, x1, z0, z1 of a paved yard beside the road, metres.
    car_park: tuple[float, float, float, float] | None = None
