"""The simulated models and their arrivals. Times are whole microseconds, so that sums are exact."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Model:
    """A model that takes fixed_us per call plus item_us per item, one call at a time."""

    name: str
    fixed_us: int
    item_us: int
    #: The real case that it stands for.
    rationale: str
    max_batch: int = 16

    def call_us(self, items: int) -> int:
        """Return the duration of a call with this many items."""
        return self.fixed_us + self.item_us * items

    @property
    def full_per_s(self) -> float:
        """Items per second in full batches, the highest possible rate."""
        return self.max_batch / self.full_s

    @property
    def full_s(self) -> float:
        """Duration of a full batch in seconds."""
        return self.call_us(self.max_batch) / 1e6


MODELS = (
    Model("like a GPU", 20_000, 500, "launches and reading the weights dominate, so one more item is almost free"),
    Model(
        "in between",
        12_000,
        6_000,
        "the autoscaling simulation's assumption for stage 1 (benchmarks/autoscaling_sim/world.py)",
    ),
    Model("like a CPU", 1_000, 20_000, "one item keeps every core busy, so a batch saves only the overhead of a call"),
)


def arrivals(model: Model, load: float, count: int, seed: int) -> tuple[int, ...]:
    """Return the due time of each item, from 0 on: a Poisson process at a load relative to the rate of full batches.

    A seed has the same arrivals for every model and load, up to scale.
    """
    rng = random.Random(seed)
    at_us, due = 0.0, []
    for _ in range(count):
        due.append(round(at_us))
        at_us += 1e6 * rng.expovariate(1.0) / (load * model.full_per_s)
    return tuple(due)
