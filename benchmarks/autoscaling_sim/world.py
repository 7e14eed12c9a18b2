"""The day: what comes when, and what it takes. Every figure here is an assumption, and is written into the result."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

DAY_S = 86_400.0
STAGES = ("backbone", "signs", "vlm", "reasoner")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage: a call takes fixed_s plus item_s for each item."""

    #: GPU share of a replica.
    gpus: float
    fixed_s: float
    item_s: float
    max_batch: int
    #: Concurrent calls of a replica, which do not slow each other.
    slots: int
    #: Time until a new replica answers.
    start_s: float
    #: Largest number of replicas.
    most: int

    def call_s(self, items: int) -> float:
        """Seconds that a call takes."""
        return self.fixed_s + self.item_s * items


@dataclass(frozen=True, slots=True)
class World:
    """A simulated cluster and its traffic."""

    #: Number of GPUs.
    cards: int = 8
    #: Items per second at night.
    base: float = 1.5
    #: Items per second at rush hour.
    peak: float = 14.0
    bursts: int = 8
    #: Factor of a burst on the rate.
    burst: float = 2.5
    #: Share of the day after which stage 1 settles fewer items.
    shift_at: float = 0.55
    #: Share of items that each stage passes on, before the shift and after.
    open: tuple[tuple[float, float, float], tuple[float, float, float]] = ((0.3, 0.8, 0.25), (0.55, 0.8, 0.3))
    deadline_s: float = 20.0
    stages: tuple[tuple[str, Stage], ...] = (
        ("backbone", Stage(0.25, 0.012, 0.006, 32, 1, 15.0, 4)),
        ("signs", Stage(0.10, 0.05, 0.15, 2, 1, 20.0, 8)),
        ("vlm", Stage(0.65, 2.4, 0.0, 1, 16, 120.0, 6)),
        ("reasoner", Stage(0.65, 9.0, 0.0, 1, 10, 150.0, 6)),
    )

    def rate(self, at_s: float, bursts: tuple[tuple[float, float], ...]) -> float:
        """Items a second: low at night, two rush hours, and bursts of minutes."""
        hour = 24 * at_s / DAY_S
        rush = math.exp(-(((hour - 8) / 2.2) ** 2)) + math.exp(-(((hour - 17.5) / 2.8) ** 2))
        noon = 0.45 * math.exp(-(((hour - 12.5) / 4) ** 2))
        rate = self.base + (self.peak - self.base) * min(1.0, rush + noon)
        return rate * (self.burst if any(began <= at_s < ended for began, ended in bursts) else 1.0)


@dataclass(frozen=True, slots=True)
class Item:
    """at_s: when it comes. stages: how many of them it needs before it may leave."""

    at_s: float
    stages: int


def traffic(world: World, seed: int, length_s: float = DAY_S) -> Iterator[Item]:
    """Items of a day in the order in which they come: a Poisson process whose rate changes."""
    rng = random.Random(seed)
    bursts = tuple(
        (began, began + rng.uniform(180, 600)) for began in (rng.uniform(0, DAY_S) for _ in range(world.bursts))
    )
    most = world.peak * world.burst
    at_s = 0.0
    while (at_s := at_s + rng.expovariate(most)) < length_s:
        if rng.random() * most > world.rate(at_s, bursts):
            continue
        shares, stages = world.open[at_s >= world.shift_at * DAY_S], 1
        for share in shares:
            if rng.random() >= share:
                break
            stages += 1
        yield Item(at_s, stages)
