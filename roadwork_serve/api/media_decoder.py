"""Decoding of files to photos and clips, for requests with deadlines."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from roadwork_serve.cascade.latency import LatencyEstimator
from roadwork_serve.errors import DeadlineExceeded, Overloaded
from roadwork_serve.media import Clip, Photo, checked
from roadwork_serve.media.decode_cost import decode_cost
from roadwork_serve.media.decode_pool import DecodePool
from roadwork_serve.media.heavy_lane import heavy_places
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.profiles.profile import Profile

T = TypeVar("T")
_MARGIN = 1.1


class MediaDecoder:
    """A pool of decoder processes with a queue, and another one for heavy files. Needs a running event loop."""

    def __init__(self, profile: Profile) -> None:
        self._limits = profile.media
        processes = profile.ingress.decode_processes
        self._light, self._heavy = _Queue(processes), _Queue(heavy_places(processes))
        self._pool = DecodePool(processes, timed=self._record)

    @property
    def count(self) -> int:
        """Files being decoded or waiting for it."""
        return self._light.count + self._heavy.count

    async def ready(self) -> None:
        """Wait until the processes are up."""
        await self._pool.ready()

    async def read(self, data: bytes, deadline_s: float) -> Photo | Clip:
        """Return the photo or clip in these bytes, by a deadline on the clock of `time.monotonic()`.

        Raises the errors of `media.read`, Overloaded if the queue is too long, and DeadlineExceeded.
        """
        return await self._run(self._pool.read, data, deadline_s)

    async def page(self, data: bytes, deadline_s: float) -> bytes:
        """Return the page of a photo that has been read. Raises the errors of `read`."""
        return await self._run(self._pool.page, data, deadline_s)

    async def _run(self, task: Callable[[bytes, MediaLimits], Awaitable[T]], data: bytes, deadline_s: float) -> T:
        heavy = decode_cost(data, checked(data, self._limits), self._limits).heavy
        queue = self._heavy if heavy else self._light
        queue.check_feasible(deadline_s)
        queue.count += 1
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()), queue.slots:
                queue.check_start(deadline_s)
                return await task(data, self._limits)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the file was decoded; allow more time") from None
        finally:
            queue.count -= 1

    def check_feasible(self, deadline_s: float) -> None:
        """Raise what `read` would raise at once: Overloaded if the queue is too long, or DeadlineExceeded."""
        self._light.check_feasible(deadline_s)

    def wait_s(self) -> float:
        """Return the estimated queueing delay of a new file in seconds. Deliberately pessimistic."""
        return self._light.wait_s()

    async def aclose(self) -> None:
        """End the processes."""
        await self._pool.aclose()

    def _record(self, decode_s: float, completed: bool, heavy: bool) -> None:
        (self._heavy if heavy else self._light).latency.record(1, decode_s, completed)


class _Queue:
    """Files that wait for as many processes, which may be fewer while heavy files are decoded."""

    def __init__(self, processes: int) -> None:
        #: Files being decoded or waiting for it.
        self.count = 0
        self.slots = asyncio.Semaphore(processes)
        self.latency = LatencyEstimator()
        self._processes = processes

    def check_feasible(self, deadline_s: float) -> None:
        """Raise Overloaded if the queue is too long, or DeadlineExceeded if a file takes too long in any case."""
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("the deadline had passed before the file was decoded; allow more time")
        if (needs_s := self._needs_s()) > left_s and not self.wait_s():
            raise DeadlineExceeded(
                f"decoding takes up to {needs_s * 1000:.0f} ms and {left_s * 1000:.0f} ms are left; allow more time"
            )
        if self.wait_s() + needs_s > left_s:
            raise self._too_busy()

    def check_start(self, deadline_s: float) -> None:
        """Raise Overloaded if a file would be late that starts now: stopping it would cost its process."""
        if self.count > self._processes and self._needs_s() > deadline_s - time.monotonic():
            raise self._too_busy()

    def wait_s(self) -> float:
        """Return the estimated queueing delay of a new file in seconds."""
        return self._needs_s() * max(0, self.count - self._processes + 1) / self._processes

    def _needs_s(self) -> float:
        return _MARGIN * (self.latency.p90_s(1) or 0.0)

    def _too_busy(self) -> Overloaded:
        wait_s = self._needs_s() * self.count / self._processes
        return Overloaded(f"{self.count} files are in the decoding queue; come back in {wait_s:.1f} s", wait_s)
