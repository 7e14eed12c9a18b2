"""The k items with the lowest keys of a stream."""

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


class BottomK(Generic[T]):
    """Keeps the `size` items with the lowest keys, in whatever order they arrive.

    With random keys this is a sample without replacement.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        #: Items added so far, accepted or not.
        self.seen = 0
        self._heap: list[tuple[float, float, int, T]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def accepts(self, key: float, tie: float = 0.0) -> bool:
        """Return whether an item with this key would be kept; one equal to the highest kept key would not."""
        return len(self._heap) < self.size or (-key, -tie) > self._heap[0][:2]

    def add(self, item: T, key: float, tie: float = 0.0) -> None:
        """Keep the item if its key is among the lowest. `tie` decides between equal keys."""
        self.seen += 1
        if not self.size or not self.accepts(key, tie):
            return
        push = heapq.heappush if len(self._heap) < self.size else heapq.heapreplace
        push(self._heap, (-key, -tie, self.seen, item))

    def ordered(self) -> list[T]:
        """Return the kept items from the lowest key up."""
        return [item for *_, item in sorted(self._heap, key=lambda entry: (-entry[0], -entry[1], entry[2]))]
