"""Files to photos and clips, for requests with deadlines."""

import asyncio
import time
from functools import partial

from roadwork_serve.cascade.latency import LatencyEstimator
from roadwork_serve.errors import DeadlineExceeded, Overloaded
from roadwork_serve.media import Clip, Photo
from roadwork_serve.media.decode_pool import DecodePool
from roadwork_serve.profiles.profile import Profile

_MARGIN = 1.1


class MediaDecoder:
    """The processes that read files, and who waits for them. Needs a running event loop."""

    def __init__(self, profile: Profile) -> None:
        self.count = 0  # files that are read or wait to be
        self._limits = profile.media
        self._processes = profile.ingress.decode_processes
        self._pace = LatencyEstimator()
        self._readers = DecodePool(self._processes, timed=partial(self._pace.record, 1))
        self._turn = asyncio.Semaphore(self._processes)

    async def ready(self) -> None:
        """Wait until the processes are up."""
        await self._readers.ready()

    async def read(self, data: bytes, deadline_s: float) -> Photo | Clip:
        """The photo or clip in these bytes, by a deadline on the clock of `time.monotonic()`.

        Raises the errors of `media.read`, Overloaded when too many wait already, and DeadlineExceeded.
        """
        self.admit(deadline_s)
        self.count += 1
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()), self._turn:
                return await self._read(data, deadline_s)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the file was read; allow more time") from None
        finally:
            self.count -= 1

    def admit(self, deadline_s: float) -> None:
        """Raises what `read` would raise at once: Overloaded when too many wait already, and DeadlineExceeded."""
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("the deadline had passed before the file was read; allow more time")
        if (needs_s := self._needs_s()) > left_s and not self.wait_s():
            raise DeadlineExceeded(
                f"reading takes up to {needs_s * 1000:.0f} ms and {left_s * 1000:.0f} ms are left; allow more time"
            )
        if self.wait_s() + needs_s > left_s:
            raise self._too_busy()

    def wait_s(self) -> float:
        """How long a file would wait for a process if it came now, seconds: reckoned high."""
        return self._needs_s() * max(0, self.count - self._processes + 1) / self._processes

    async def aclose(self) -> None:
        """End the processes."""
        await self._readers.aclose()

    async def _read(self, data: bytes, deadline_s: float) -> Photo | Clip:
        """With a process free for it. What could not be in time is not begun: to stop it would cost the process."""
        if self.count > self._processes and self._needs_s() > deadline_s - time.monotonic():
            raise self._too_busy()
        return await self._readers.read(data, self._limits)

    def _needs_s(self) -> float:
        return _MARGIN * (self._pace.p90_s(1) or 0.0)

    def _too_busy(self) -> Overloaded:
        wait_s = self._needs_s() * self.count / self._processes
        return Overloaded(f"{self.count} files are to be read first; come back in {wait_s:.1f} s", wait_s)
