"""Priority of calls: those of hotkeys with more stake run first."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from roadwork_serve.miner.protocol import CallRejected


class PrioritySemaphore:
    """A semaphore whose waiters run in order of stake, then of arrival."""

    def __init__(self, max_concurrent: int, max_queue: int) -> None:
        """Create the semaphore.

        Args:
            max_concurrent: Largest number of concurrent holders.
            max_queue: Largest number of waiters.
        """
        self._free = max_concurrent
        self._max_queue = max_queue
        self._queue: list[tuple[float, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    @property
    def queued(self) -> int:
        """Number of waiters."""
        return sum(not future.done() for *_, future in self._queue)

    @asynccontextmanager
    async def slot(self, stake: float) -> AsyncGenerator[None]:
        """Wait for a slot and hold it inside the block.

        Raises:
            CallRejected: 503 if the queue is full of calls with at least this stake, or a call with more stake
                has displaced this one.
        """
        await self._acquire(stake)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, stake: float) -> None:
        if self._free:
            self._free -= 1
            return
        if self.queued >= self._max_queue:
            self._displace(stake)
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (-stake, next(self._arrivals), future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # the slot was granted while the caller was cancelled
                self._release()
            raise

    def _displace(self, stake: float) -> None:
        """Reject the waiter with the least stake that came last, or this call if none has less stake."""
        full = CallRejected(503, "busy", "too many calls are queued; try again in a second")
        least = max((each for each in self._queue if not each[-1].done()), key=lambda each: each[:2], default=None)
        if least is None or -least[0] >= stake:
            raise full
        least[-1].set_exception(full)

    def _release(self) -> None:
        while self._queue:
            future = heapq.heappop(self._queue)[-1]
            if not future.done():
                future.set_result(None)
                return
        self._free += 1
