"""Signs and boards with real text."""

from dataclasses import dataclass
from typing import Literal

from roadwork_serve.testbed.scenes.pen import Colour, Pen, shade
from roadwork_serve.testbed.scenes.things import STEEL, WHITE

Face = Literal["diamond", "board"]
WORK_ORANGE: Colour = (244, 122, 28)
BLACK: Colour = (22, 20, 20)

# Phrases by kind, one tuple of lines each. Sources of the wording: MUTCD 2023 part 6 (temporary traffic
# control), the UK's Traffic Signs Manual chapter 8; the neutral ones are everyday boards.
PHRASES: dict[str, tuple[tuple[str, ...], ...]] = {
    "sign_begin": (
        ("ROAD", "WORK", "AHEAD"), ("ROAD WORK", "AHEAD"), ("ROAD", "WORK"), ("WORK", "ZONE"),
        ("UTILITY", "WORK", "AHEAD"), ("ROAD", "WORKS"), ("ROAD", "WORK", "500 FT"), ("BRIDGE", "WORK", "AHEAD"),
        ("SHOULDER", "WORK"), ("ROADWORKS", "AHEAD"),
    ),
    "sign_closure": (
        ("ROAD", "CLOSED"), ("LANE", "CLOSED", "AHEAD"), ("ROAD CLOSED", "AHEAD"), ("RIGHT LANE", "CLOSED"),
        ("SIDEWALK", "CLOSED"), ("LEFT LANE", "CLOSED"), ("BRIDGE", "CLOSED"),
    ),
    "sign_detour": (("DETOUR",), ("DETOUR", "AHEAD"), ("DIVERSION",), ("DIVERTED", "TRAFFIC")),
    "sign_worker": (("WORKERS", "AHEAD"), ("MEN", "AT WORK"), ("FLAGGER", "AHEAD"), ("WORKERS", "IN ROAD")),
    "sign_end": (
        ("END", "ROAD", "WORK"), ("END", "ROAD WORK"), ("END", "WORK ZONE"), ("END", "ROAD", "WORKS"),
        ("END", "CONSTRUCTION"), ("END", "DETOUR"),
    ),
    "sign_neutral": (
        ("TRAFFIC", "CALMING", "AHEAD"), ("SLOW", "CHILDREN"), ("SCHOOL", "AHEAD"), ("SUMMER", "SALE"),
        ("FARM", "SHOP"), ("CAR WASH", "OPEN"), ("FRESH", "ORANGES"), ("HIDDEN", "DRIVE"), ("SPEED", "HUMPS"),
        ("GARDEN", "CENTRE"), ("EVENT", "PARKING"), ("SHARE", "THE ROAD"), ("PUMPKIN", "PATCH"), ("OPEN", "TODAY"),
        ("STOP", "AHEAD"), ("DEAD", "END"),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Board:
    """The face of a sign."""

    face: Face
    lines: tuple[str, ...]
    colour: Colour
    ink: Colour
    #: Height of the post as a fraction of the whole height.
    lift: float

    @property
    def aspect(self) -> float:
        """Width divided by the height of face and post together."""
        if self.face == "diamond":
            return 1.0 - self.lift
        return (1.0 - self.lift) * (1.55 if len(self.lines) < 3 else 1.2)


def paint_board(board: Board, pen: Pen) -> None:
    """Paint the face above and the post below."""
    foot = 1.0 - board.lift
    pen.rect(0.47, foot * 0.9, 0.53, 1.0, shade(STEEL, 0.8))
    if board.face == "diamond":
        middle = foot / 2
        pen.poly([(0.5, 0.0), (1.0, middle), (0.5, foot), (0.0, middle)], board.ink)
        pen.poly([(0.5, 0.025), (0.975, middle), (0.5, foot - 0.025), (0.025, middle)], board.colour)
        half = 0.30 if len(board.lines) == 3 else 0.33
        tall = foot * (0.27 if len(board.lines) == 3 else 0.18 if len(board.lines) == 2 else 0.1)
        pen.text(board.lines, (0.5 - half, middle - tall, 0.5 + half, middle + tall), board.ink)
        return
    pen.rect(0.0, 0.0, 1.0, foot, board.ink)
    pen.rect(0.015, 0.02, 0.985, foot - 0.02, board.colour)
    pen.text(board.lines, (0.07, foot * 0.1, 0.93, foot * 0.9), board.ink)


SIGN_COLOURS: dict[str, tuple[tuple[Colour, Colour], ...]] = {
    "work": ((WORK_ORANGE, BLACK), ((250, 140, 40), BLACK), ((252, 196, 30), BLACK)),
    "advert": (((250, 200, 40), (180, 30, 30)), ((200, 34, 40), WHITE), ((30, 90, 170), WHITE), ((34, 120, 60), WHITE)),
}
