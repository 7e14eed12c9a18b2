"""The heavy lane: few expensive files are decoded at once, so that a process and memory remain for all others."""

import asyncio
from collections import deque


def heavy_places(processes: int) -> int:
    """Return how many heavy files a pool of this many processes decodes at once: all but one, if there are several."""
    return max(1, processes - 1)


class HeavyLane:
    """Admits files in order while there is room for them. Needs a running event loop.

    Args:
        places: Largest number of files at once.
    """

    def __init__(self, places: int) -> None:
        #: Number of files in the lane.
        self.count = 0
        self._places = places
        self._used_mib = 0
        self._waiting: deque[tuple[int, int, asyncio.Future[None]]] = deque()

    def try_enter(self, memory_mib: int, most_mib: int) -> bool:
        """Enter if there is room, and return whether there was. A file that enters must `leave` with the same memory.

        Args:
            memory_mib: Memory of the file in MiB.
            most_mib: Memory of all files in the lane in MiB; a larger file is admitted alone.
        """
        if self._waiting or not self._fits(memory_mib, most_mib):
            return False
        self._enter(memory_mib)
        return True

    async def enter(self, memory_mib: int, most_mib: int) -> None:
        """Wait for room behind all others that wait, then enter; see `try_enter`."""
        if self.try_enter(memory_mib, most_mib):
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append((memory_mib, most_mib, place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave(memory_mib)
            else:
                self._admit()
            raise

    def leave(self, memory_mib: int) -> None:
        """Make room for others."""
        self.count -= 1
        self._used_mib -= memory_mib
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            memory_mib, most_mib, place = self._waiting[0]
            if not place.cancelled():
                if not self._fits(memory_mib, most_mib):
                    return
                self._enter(memory_mib)
                place.set_result(None)
            self._waiting.popleft()

    def _fits(self, memory_mib: int, most_mib: int) -> bool:
        return not self.count or (self.count < self._places and self._used_mib + memory_mib <= most_mib)

    def _enter(self, memory_mib: int) -> None:
        self.count += 1
        self._used_mib += memory_mib
