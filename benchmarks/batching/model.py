"""The model that is only a time, and what comes to it. Times are whole microseconds, so that sums of them are exact."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Model:
    """A call takes fixed_us and item_us for each of its items; one runs at a time. why: there is a model like this."""

    name: str
    fixed_us: int
    item_us: int
    why: str
    max_batch: int = 16

    def call_us(self, items: int) -> int:
        """Return the duration of a call with this many items."""
        return self.fixed_us + self.item_us * items

    @property
    def full_per_s(self) -> float:
        """Items a second in full batches, the most it can do."""
        return self.max_batch / self.full_s

    @property
    def full_s(self) -> float:
        """What a full batch takes, seconds."""
        return self.call_us(self.max_batch) / 1e6


MODELS = (
    Model("like a GPU", 20_000, 500, "a call costs its launches and its weights, and one item more is almost free"),
    Model(
        "in between",
        12_000,
        6_000,
        "what the benchmark of scaling assumes for stage 1 (benchmarks/autoscaling_sim/world.py)",
    ),
    Model("like a CPU", 1_000, 20_000, "one item keeps every core busy, and a batch saves no more than a call's way"),
)


def arrivals(model: Model, share: float, count: int, seed: int) -> tuple[int, ...]:
    """When each item is due, from 0 on: Poisson, at a share of what the model can do in full batches.

    A seed has the same arrivals for every model and share but for the scale.
    """
    rng = random.Random(seed)
    at, due = 0.0, []
    for _ in range(count):
        due.append(round(at))
        at += 1e6 * rng.expovariate(1.0) / (share * model.full_per_s)
    return tuple(due)
