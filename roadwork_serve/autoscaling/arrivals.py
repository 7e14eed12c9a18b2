"""Arrival statistics of the cascade: the arrival rate, and the share of items that reach each stage."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

_SLOW_S, _FAST_S = 60.0, 8.0  # time constants of the arrival rate
_SHARE_S = 300.0  # and of shares, which change slowly and need more items
_BURST_SIGMAS = 3.0  # standard deviations by which the fast rate must exceed the slow one to be used


class DecayingCounter:
    """A sum with exponential decay, by a factor of e every `over_s` seconds."""

    def __init__(self, over_s: float, clock: Callable[[], float]) -> None:
        self._over_s = over_s
        self._clock = clock
        self._sum = 0.0
        self._at_s = self._started_s = clock()

    def add(self, amount: float = 1.0) -> None:
        """Add an amount now."""
        self._sum = self.value + amount
        self._at_s = self._clock()

    @property
    def value(self) -> float:
        """The decayed sum."""
        return self._sum * math.exp((self._at_s - self._clock()) / self._over_s)

    @property
    def rate(self) -> float:
        """Amount per second; unbiased from the first second on."""
        age_s = max(1.0, self._clock() - self._started_s)
        return self.value / (self._over_s * -math.expm1(-age_s / self._over_s))


class ArrivalStats:
    """Arrivals at the front of the cascade and at its stages.

    Args:
        slots: by stage, the items that one replica processes at the same time: 1 for models that compute one batch
            after the other.
        clock: monotonic seconds.
    """

    def __init__(self, slots: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self._clock = clock
        self._slow, self._fast = DecayingCounter(_SLOW_S, clock), DecayingCounter(_FAST_S, clock)
        self._items = DecayingCounter(_SHARE_S, clock)
        self._needed = {stage: DecayingCounter(_SHARE_S, clock) for stage in slots}
        self._work_s = {stage: DecayingCounter(_SHARE_S, clock) for stage in slots}
        self._inferences = {stage: DecayingCounter(_SHARE_S, clock) for stage in slots}
        self._last_s = {stage: clock() for stage in slots}

    def record_arrival(self) -> None:
        """Record a request, whether it was admitted or not."""
        self._slow.add()
        self._fast.add()

    def record_exit(self, stages: Sequence[str]) -> None:
        """Record a verdict and the stages that it needed, including those that failed."""
        self._items.add()
        for stage in stages:
            if stage in self._needed:
                self._needed[stage].add()
                self._last_s[stage] = self._clock()

    def record_inference(self, stage: str, took_s: float, batch: int) -> None:
        """Record the inference on one item of a batch, given the seconds for the whole batch."""
        if stage in self._work_s:
            self._work_s[stage].add(took_s / max(1, batch) / self._slots[stage])
            self._inferences[stage].add()

    def share(self, stage: str) -> float:
        """Return the share of items that reach the stage; 0 before the first one."""
        items = self._items.value
        return min(1.0, self._needed[stage].value / items) if items > 0 else 0.0

    def item_s(self, stage: str) -> float:
        """Return the seconds of one replica per item, at current batch sizes; 0 before the first inference."""
        count = self._inferences[stage].value
        return self._work_s[stage].value / count if count > 0 else 0.0

    @property
    def rate(self) -> float:
        """Arrivals per second: of the last minute, or of the last seconds if they are significantly busier."""
        slow, fast = self._slow.rate, self._fast.rate
        sigma = math.sqrt(slow / (2 * _FAST_S))  # of a Poisson process with this decay
        return fast if fast > slow + _BURST_SIGMAS * sigma else slow

    def load(self, stage: str) -> float:
        """Return the load of the stage in erlangs: arrival rate x share of items x seconds per item."""
        return self.rate * self.share(stage) * self.item_s(stage)

    def idle_s(self, stage: str) -> float:
        """Return the seconds since an item last needed the stage."""
        return self._clock() - self._last_s[stage]
