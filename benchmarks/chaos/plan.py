"""The plan of a run: durations, arrivals, and faults."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["still", "clip", "hostile"]

# Stage by deployment.
STAGES = {
    "Backbone": "backbone",
    "SignReader": "signs",
    "FastVLM": "vlm",
    "Reasoner": "reasoner",
    "VideoReasoner": "video",
}
INGRESS, PROXY = "Ingress", "proxy"
TARGETS = (*STAGES, INGRESS, PROXY)

HOSTILE_SHARE = 0.05
CLIP_SHARE = 0.1  # of the good files


@dataclass(frozen=True, slots=True)
class File:
    """A file to send."""

    name: str
    mime: str
    data: bytes
    kind: Kind
    #: Status with which a hostile file must be rejected; None for a good file.
    expected_status: int | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that is sent `at_s` seconds after the load began, without waiting for earlier ones."""

    at_s: float
    file: File


@dataclass(frozen=True, slots=True)
class Load:
    """A load relative to the capacity: a calm phase, then one with faults."""

    #: Rate relative to the measured capacity.
    factor: float
    calm_s: float
    #: `kill TARGET`, `swap`, `rollback`, or `recover`, which waits until every killed process has recovered.
    steps: tuple[str, ...]

    @property
    def calm(self) -> str:
        """Name of the calm phase."""
        return f"{self.factor:g}x calm"

    @property
    def faults(self) -> str:
        """Name of the phase with faults."""
        return f"{self.factor:g}x faults"


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run."""

    loads: tuple[Load, ...]
    capacity_s: float
    #: Beginning of a calm phase that is excluded from goodput, while queues fill.
    ramp_s: float
    #: Pause after each recovery.
    pause_s: float
    stills: int
    clips: int
    #: Closed-loop clients that measure the capacity.
    clients: int = 24
    #: Deadline of every request.
    deadline_ms: int = 4000
    #: Time limit of a recovery.
    recover_s: float = 60.0
    #: Time after its deadline until a request counts as unanswered.
    grace_s: float = 6.0

    def count(self, verb: str) -> int:
        """Return the number of steps that begin with this word."""
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


def arrivals(seed: int, per_s: float, files: Sequence[File]) -> Iterator[Arrival]:
    """Yield Poisson arrivals without end, the same for the same seed: 5 % hostile files, else 9 stills to a clip.

    Each kind cycles through its files in shuffled order, so that all are equally frequent.
    """
    rng = random.Random(seed)
    queues = _queues(rng, files, get_args(Kind))
    at_s = 0.0
    while True:
        at_s += rng.expovariate(per_s)
        good: Kind = "clip" if rng.random() < CLIP_SHARE else "still"
        yield Arrival(at_s, next(queues["hostile" if rng.random() < HOSTILE_SHARE else good]))


def good_files(seed: int, files: Sequence[File]) -> Iterator[File]:
    """Yield the files of the closed loop, without end: 9 stills, then a clip."""
    queues = _queues(random.Random(seed), files, ("still", "clip"))
    while True:
        for _ in range(round(1 / CLIP_SHARE) - 1):
            yield next(queues["still"])
        yield next(queues["clip"])


def _queues(rng: random.Random, files: Sequence[File], kinds: Sequence[Kind]) -> dict[Kind, Iterator[File]]:
    by_kind: dict[Kind, list[File]] = {kind: [file for file in files if file.kind == kind] for kind in kinds}
    for kind, found in by_kind.items():
        if not found:
            raise ValueError(f"there is no {kind} file to send")
    return {kind: _shuffled(rng, found) for kind, found in by_kind.items()}


def _shuffled(rng: random.Random, files: Sequence[File]) -> Iterator[File]:
    while True:
        yield from rng.sample(files, len(files))
