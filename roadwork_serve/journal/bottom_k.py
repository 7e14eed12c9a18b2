"""The k items with the lowest keys, in whatever order they come."""

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


class BottomK(Generic[T]):
    """The few with the lowest keys among many, whatever order they come in. By lots it is a draw without replacement.

    size: how many are kept. seen: how many there were.
    """

    def __init__(self, size: int) -> None:
        self.size, self.seen = size, 0
        self._heap: list[tuple[float, float, int, T]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def takes(self, key: float, then: float = 0.0) -> bool:
        """Whether this key would be kept; one that is equal to the highest is not."""
        return len(self._heap) < self.size or (-key, -then) > self._heap[0][:2]

    def add(self, what: T, key: float, then: float = 0.0) -> None:
        """Keep it if its key is among the lowest. then: decides where keys are equal."""
        self.seen += 1
        if not self.size or not self.takes(key, then):
            return
        push = heapq.heappush if len(self._heap) < self.size else heapq.heapreplace
        push(self._heap, (-key, -then, self.seen, what))

    def ordered(self) -> list[T]:
        """What is kept, from the lowest key up."""
        return [what for *_, what in sorted(self._heap, key=lambda kept: (-kept[0], -kept[1], kept[2]))]
