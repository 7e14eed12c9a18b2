"""Ground truth of a rendered scene: the label, the things in it, and the cheapest stage that can know the label."""

from dataclasses import dataclass
from typing import Literal

ThingKind = Literal[
    "cone", "barrel", "barrier", "arrow_board", "worker", "machine",  # evidence of road work when on the road
    "sign_begin", "sign_closure", "sign_detour", "sign_worker",  # work-zone signs, with text
    "sign_end", "sign_neutral",  # end of road work; any other board or advertisement
    "cyclist", "pedestrian", "car", "lorry", "lorry_with_cones", "low_loader", "parked_cones", "bin",
]  # fmt: skip
Activity = Literal["working", "open_area", "single_object", "announced", "left_behind", "parked", "none"]
StageName = Literal["backbone", "signs", "vlm", "reasoner", "video"]


@dataclass(frozen=True, slots=True)
class Thing:
    """One object in the picture."""

    kind: ThingKind
    #: x0, y0, x1, y1 as fractions of width and height, clipped to the picture.
    box: tuple[float, float, float, float]
    #: Text written on it; empty for none.
    text: str = ""
    #: Whether it is at work or on the move.
    moving: bool = False


@dataclass(frozen=True, slots=True)
class Truth:
    """Ground truth of a scene."""

    seed: int
    media: Literal["photo", "clip"]
    #: Whether it shows active road work.
    label: bool
    #: The cheapest stage that can know the label.
    needs: StageName
    activity: Activity
    things: tuple[Thing, ...]
    #: Setting, light and weather.
    tags: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Text of the signs, one entry a sign."""
        return tuple(thing.text for thing in self.things if thing.text)
