"""What is true of a rendered scene: the label, the things in it, and which stage it was made for."""

from dataclasses import dataclass
from typing import Literal

ThingKind = Literal[
    "cone", "barrel", "barrier", "arrow_board", "worker", "machine",  # signs of work when on the road
    "sign_begin", "sign_closure", "sign_detour", "sign_worker",  # work-zone signs, with words
    "sign_end", "sign_neutral",  # end of works; any other board or advertisement
    "cyclist", "pedestrian", "car", "lorry", "lorry_with_cones", "low_loader", "parked_cones", "bin",
]  # fmt: skip
Activity = Literal["working", "open_area", "single_object", "announced", "left_behind", "parked", "none"]
StageName = Literal["backbone", "signs", "vlm", "reasoner", "video"]


@dataclass(frozen=True, slots=True)
class Thing:
    """One object. box: x0, y0, x1, y1 in shares of width and height, clipped to the picture."""

    kind: ThingKind
    box: tuple[float, float, float, float]
    words: str = ""
    moving: bool = False


@dataclass(frozen=True, slots=True)
class Truth:
    """label: active road work. needs: the cheapest stage that can know it. tags: town, weather, time of day."""

    seed: int
    media: Literal["photo", "clip"]
    label: bool
    needs: StageName
    activity: Activity
    things: tuple[Thing, ...]
    tags: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """What is written on the signs, one entry a sign."""
        return tuple(thing.words for thing in self.things if thing.words)
