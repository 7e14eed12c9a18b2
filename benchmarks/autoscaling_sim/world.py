"""The simulated day: traffic and service times. All figures are assumptions, recorded in the result."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

DAY_S = 86_400.0
STAGES = ("backbone", "signs", "vlm", "reasoner")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage. A call takes fixed_s plus item_s for each item."""

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
    max_replicas: int

    def call_s(self, items: int) -> float:
        """Return the duration of a call in seconds."""
        return self.fixed_s + self.item_s * items


@dataclass(frozen=True, slots=True)
class World:
    """A simulated cluster and its traffic."""

    #: Number of GPUs.
    gpu_count: int = 8
    #: Items per second at night.
    base_per_s: float = 1.5
    #: Items per second at rush hour.
    peak_per_s: float = 14.0
    #: Bursts per day.
    bursts: int = 8
    #: Factor by which a burst raises the rate.
    burst_factor: float = 2.5
    #: Fraction of the day after which stage 1 settles fewer items.
    shift_at: float = 0.55
    #: Fraction of items that each stage forwards to the next, before the shift and after.
    forward_shares: tuple[tuple[float, float, float], tuple[float, float, float]] = ((0.3, 0.8, 0.25), (0.55, 0.8, 0.3))
    deadline_s: float = 20.0
    stages: tuple[tuple[str, Stage], ...] = (
        ("backbone", Stage(0.25, 0.012, 0.006, 32, 1, 15.0, 4)),
        ("signs", Stage(0.10, 0.05, 0.15, 2, 1, 20.0, 8)),
        ("vlm", Stage(0.65, 2.4, 0.0, 1, 16, 120.0, 6)),
        ("reasoner", Stage(0.65, 9.0, 0.0, 1, 10, 150.0, 6)),
    )

    def rate(self, at_s: float, bursts: tuple[tuple[float, float], ...]) -> float:
        """Return the rate in items per second: low at night, with two rush hours and bursts of minutes."""
        hour = 24 * at_s / DAY_S
        rush = math.exp(-(((hour - 8) / 2.2) ** 2)) + math.exp(-(((hour - 17.5) / 2.8) ** 2))
        noon = 0.45 * math.exp(-(((hour - 12.5) / 4) ** 2))
        rate = self.base_per_s + (self.peak_per_s - self.base_per_s) * min(1.0, rush + noon)
        return rate * (self.burst_factor if any(began <= at_s < ended for began, ended in bursts) else 1.0)


@dataclass(frozen=True, slots=True)
class Item:
    """An item of the traffic."""

    #: Arrival time.
    at_s: float
    #: Number of stages it needs before it may exit.
    stages: int


def traffic(world: World, seed: int, length_s: float = DAY_S) -> Iterator[Item]:
    """Yield the items of a day in order of arrival: a Poisson process with a varying rate."""
    rng = random.Random(seed)
    bursts = tuple(
        (began, began + rng.uniform(180, 600)) for began in (rng.uniform(0, DAY_S) for _ in range(world.bursts))
    )
    highest = world.peak_per_s * world.burst_factor
    at_s = 0.0
    while (at_s := at_s + rng.expovariate(highest)) < length_s:
        if rng.random() * highest > world.rate(at_s, bursts):
            continue
        shares, stages = world.forward_shares[at_s >= world.shift_at * DAY_S], 1
        for share in shares:
            if rng.random() >= share:
                break
            stages += 1
        yield Item(at_s, stages)
