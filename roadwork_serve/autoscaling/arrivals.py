"""What is asked of every stage: the rate at the front, and the share of items that each stage gets to see."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

_SLOW_S, _FAST_S = 60.0, 8.0  # the last so many seconds count for the rate at the front
_SHARE_S = 300.0  # and for shares, which change slowly and want more items
_SURE = 3.0  # standard deviations by which the last moments must be busier to be believed


class DecayingCounter:
    """A sum in which everything weighs less as time goes by: by a factor e every `over_s` seconds."""

    def __init__(self, over_s: float, clock: Callable[[], float]) -> None:
        self._over_s = over_s
        self._clock = clock
        self._sum = 0.0
        self._at_s = self._began_s = clock()

    def add(self, amount: float = 1.0) -> None:
        """Count so much now."""
        self._sum = self.value + amount
        self._at_s = self._clock()

    @property
    def value(self) -> float:
        """The sum as it weighs now."""
        return self._sum * math.exp((self._at_s - self._clock()) / self._over_s)

    @property
    def rate(self) -> float:
        """Per second, right from the first second on."""
        age_s = max(1.0, self._clock() - self._began_s)
        return self.value / (self._over_s * -math.expm1(-age_s / self._over_s))


class ArrivalStats:
    """Items as they come to the front and as they get to stages.

    slots: by stage, how many items one replica works on at once: 1 where a model computes one batch after the other.
    clock: seconds, rising.
    """

    def __init__(self, slots: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self._clock = clock
        self._slow, self._fast = DecayingCounter(_SLOW_S, clock), DecayingCounter(_FAST_S, clock)
        self._items = DecayingCounter(_SHARE_S, clock)
        self._asked = {stage: DecayingCounter(_SHARE_S, clock) for stage in slots}
        self._work_s = {stage: DecayingCounter(_SHARE_S, clock) for stage in slots}
        self._done = {stage: DecayingCounter(_SHARE_S, clock) for stage in slots}
        self._last_s = {stage: clock() for stage in slots}

    def came(self) -> None:
        """An item asked to be let in, whether it was or not."""
        self._slow.add()
        self._fast.add()

    def left(self, stages: Sequence[str]) -> None:
        """An item has been answered. stages: those it was shown to, or was to be shown to and could not."""
        self._items.add()
        for stage in stages:
            if stage in self._asked:
                self._asked[stage].add()
                self._last_s[stage] = self._clock()

    def judged(self, stage: str, took_s: float, batch: int) -> None:
        """A stage judged one item of a batch in so many seconds for the whole of it."""
        if stage in self._work_s:
            self._work_s[stage].add(took_s / max(1, batch) / self._slots[stage])
            self._done[stage].add()

    def share(self, stage: str) -> float:
        """Of the items at the front, those that get to the stage; 0 while none has."""
        items = self._items.value
        return min(1.0, self._asked[stage].value / items) if items > 0 else 0.0

    def item_s(self, stage: str) -> float:
        """Seconds of one replica that an item takes, in batches as they are now; 0 while none has been judged."""
        done = self._done[stage].value
        return self._work_s[stage].value / done if done > 0 else 0.0

    @property
    def rate(self) -> float:
        """Items a second at the front: of the last minute, or of the last moments once these are surely busier."""
        slow, fast = self._slow.rate, self._fast.rate
        luck = math.sqrt(slow / (2 * _FAST_S))  # of a Poisson process whose past fades so fast
        return fast if fast > slow + _SURE * luck else slow

    def load(self, stage: str) -> float:
        """Erlangs that the front sends to the stage."""
        return self.rate * self.share(stage) * self.item_s(stage)

    def quiet_s(self, stage: str) -> float:
        """Seconds since the stage was last wanted."""
        return self._clock() - self._last_s[stage]
