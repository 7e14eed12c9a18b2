"""What a storm is made of: how long each part lasts, what is sent when, and what is broken meanwhile."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["still", "clip", "hostile"]

STAGES = {
    "Backbone": "backbone",
    "SignReader": "signs",
    "FastVLM": "vlm",
    "Reasoner": "reasoner",
    "VideoReasoner": "video",
}  # the deployment of each stage
INGRESS, PROXY = "Ingress", "proxy"
TARGETS = (*STAGES, INGRESS, PROXY)

HOSTILE_SHARE = 0.05
CLIP_SHARE = 0.1  # of the good files


@dataclass(frozen=True, slots=True)
class File:
    """Something to send. refusal: the status a hostile file must be refused with; None of a good file."""

    name: str
    mime: str
    data: bytes
    kind: Kind
    refusal: int | None = None


@dataclass(frozen=True, slots=True)
class Shot:
    """A request that leaves `at_s` seconds after the load began, whatever has become of those before it."""

    at_s: float
    file: File


@dataclass(frozen=True, slots=True)
class Load:
    """So many times the measured capacity: a calm phase, then what is done to the server.

    steps: `kill TARGET`, `swap`, `rollback`, and `recover`, which waits until all that was killed is back.
    """

    times: float
    calm_s: float
    steps: tuple[str, ...]

    @property
    def calm(self) -> str:
        """The name of the calm phase."""
        return f"{self.times:g}x calm"

    @property
    def faults(self) -> str:
        """The name of the phase with faults."""
        return f"{self.times:g}x faults"


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole storm. Seconds, but for the deadline that every request is sent with.

    ramp_s: at the beginning of a calm phase, left out of its goodput: queues are filling.
    clients: of the closed loop that measures capacity.
    pause_s: after each recovery. recover_s: at most for a recovery. grace_s: beyond its deadline that a request is
    waited for before it counts as unanswered.
    """

    loads: tuple[Load, ...]
    capacity_s: float
    ramp_s: float
    pause_s: float
    stills: int
    clips: int
    clients: int = 24
    deadline_ms: int = 4000
    recover_s: float = 60.0
    grace_s: float = 6.0

    def count(self, verb: str) -> int:
        """How many steps begin with this word."""
        return sum(step.split()[0] == verb for load in self.loads for step in load.steps)


def _kill(*targets: str) -> tuple[str, ...]:
    return tuple(f"kill {target}" for target in targets)


FULL = Plan(
    loads=(
        Load(0.5, 10, (*_kill("Backbone"), "swap", "recover", *_kill("SignReader"), "swap", "recover",
                       *_kill(PROXY), "swap", "recover", "swap")),
        Load(1, 25, (*_kill("FastVLM"), "swap", "recover", *_kill("Reasoner"), "swap", "recover",
                     *_kill(INGRESS), "swap", "recover", "swap")),
        Load(2, 25, (*_kill("VideoReasoner"), "swap", "recover", *_kill(PROXY), "recover",
                     *_kill(INGRESS), "swap", "recover", "rollback")),
    ),
    capacity_s=15, ramp_s=6, pause_s=2, stills=144, clips=16,
)  # fmt: skip
SHORT = Plan(
    loads=(
        Load(0.5, 3, ("swap", *_kill("FastVLM"), "swap", *_kill("Reasoner"), "swap", "recover", "swap")),
        Load(1, 10, ("swap", *_kill("SignReader"), "swap", *_kill(INGRESS), "swap", "recover", "swap")),
        Load(2, 14, ("swap", *_kill("Backbone"), *_kill("VideoReasoner"), "recover", *_kill(PROXY), "recover", "swap",
                     "rollback")),
    ),
    capacity_s=6, ramp_s=2, pause_s=0, stills=54, clips=6,
)  # fmt: skip


def shots(seed: int, per_s: float, files: Sequence[File]) -> Iterator[Shot]:
    """Poisson arrivals without end, the same for the same seed: 5 % hostile files, of the rest 9 stills to a clip.

    Each kind goes through its files in a shuffled order and then again, so that none comes more often than another.
    """
    dice = random.Random(seed)
    decks = _decks(dice, files, get_args(Kind))
    at_s = 0.0
    while True:
        at_s += dice.expovariate(per_s)
        good: Kind = "clip" if dice.random() < CLIP_SHARE else "still"
        yield Shot(at_s, next(decks["hostile" if dice.random() < HOSTILE_SHARE else good]))


def good_files(seed: int, files: Sequence[File]) -> Iterator[File]:
    """Yield the files of the closed loop, without end: 9 stills, then a clip."""
    decks = _decks(random.Random(seed), files, ("still", "clip"))
    while True:
        for _ in range(round(1 / CLIP_SHARE) - 1):
            yield next(decks["still"])
        yield next(decks["clip"])


def _decks(dice: random.Random, files: Sequence[File], kinds: Sequence[Kind]) -> dict[Kind, Iterator[File]]:
    by_kind: dict[Kind, list[File]] = {kind: [file for file in files if file.kind == kind] for kind in kinds}
    for kind, found in by_kind.items():
        if not found:
            raise ValueError(f"there is no {kind} file to send")
    return {kind: _shuffled(dice, found) for kind, found in by_kind.items()}


def _shuffled(dice: random.Random, files: Sequence[File]) -> Iterator[File]:
    while True:
        yield from dice.sample(files, len(files))
