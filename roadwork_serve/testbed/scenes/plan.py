"""What a scene is made of, before a pixel is drawn: the place, the look, the actors and the truth."""

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
    """gain: brightness per colour channel. blur: radius as a share of the width. noise: sigma in grey levels."""

    setting: Setting
    light: Light
    weather: Weather
    gain: tuple[float, float, float]
    fog: float
    blur: float
    noise: float
    quality: int
    bonnet: bool


@dataclass(frozen=True, slots=True)
class SceneObject:
    """Something that stands or moves in the scene.

    painter: key of PAINTERS, or "sign". thing: what the truth calls it; None for mere traffic that the truth
    lists as car or lorry. x, z: metres right and ahead. style: seed of its looks. cycle_hz: how often its
    moving parts come round; 0 stands still. vx, vz: its own speed, metres a second.
    """

    painter: str
    thing: ThingKind
    x: float
    z: float
    height_m: float
    style: int
    y: float = 0.0
    board: Board | None = None
    flip: bool = False
    cycle_hz: float = 0.0
    phase: float = 0.0
    vx: float = 0.0
    vz: float = 0.0

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.board.aspect if self.board else PAINTERS[self.painter][0].aspect

    @property
    def moving(self) -> bool:
        """Whether a clip shows it at work or under way."""
        return bool(self.cycle_hz or self.vx or self.vz)

    def box(self, camera: Camera, travelled_m: float, at_s: float) -> Box | None:
        """Where the picture shows it after at_s seconds and travelled_m metres, pixels; None when passed or too far."""
        z = self.z + self.vz * at_s - travelled_m
        if z < 1.5 or z > 150:
            return None
        to_and_fro = self.painter == "roller" and self.vx
        x = self.x + (math.sin(at_s * 2.2) if to_and_fro else at_s) * self.vx
        return camera.box(x, self.y, z, self.height_m, self.aspect)

    def phase_at(self, at_s: float) -> float:
        """Turns that its moving parts have made."""
        return self.phase + self.cycle_hz * at_s


@dataclass(frozen=True, slots=True)
class Scene:
    """edges: left and right border of the carriageway, metres. ego_speed: of the camera, metres a second.
    car_park: x0, x1, z0, z1 of a paved yard beside the road, metres."""

    seed: int
    camera: Camera
    look: Conditions
    edges: tuple[float, float]
    actors: tuple[SceneObject, ...]
    truth: Truth
    ego_speed: float = 0.0
    car_park: tuple[float, float, float, float] | None = None
