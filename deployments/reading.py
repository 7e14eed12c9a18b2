"""Files to photos and clips, for requests with deadlines."""

import asyncio
import time

from roadwork_serve.cascade.pace import Pace
from roadwork_serve.errors import DeadlineExceeded, Overloaded
from roadwork_serve.media import Clip, Photo
from roadwork_serve.media.readers import Readers
from roadwork_serve.profiles.profile import Profile


class Reading:
    """The processes that read files, and who waits for them. Needs a running event loop."""

    def __init__(self, profile: Profile) -> None:
        self.count = 0  # files that are read or wait to be
        self._limits = profile.media
        self._processes = profile.ingress.decode_processes
        self._readers = Readers(self._processes)
        self._pace = Pace()

    async def ready(self) -> None:
        """Wait until the processes are up."""
        await self._readers.ready()

    async def read(self, data: bytes, deadline_s: float) -> Photo | Clip:
        """The photo or clip in these bytes, by a deadline on the clock of `time.monotonic()`.

        Raises the errors of `media.read`, Overloaded when too many wait already, and DeadlineExceeded.
        """
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("the deadline had passed before the file was read; allow more time")
        if (wait_s := self.wait_s()) > left_s:
            raise Overloaded(f"{self.count} files are to be read first; come back in {wait_s:.1f} s", wait_s)
        self.count += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(left_s):
                return await self._readers.read(data, self._limits)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the file was read; allow more time") from None
        finally:
            at_once = max(1.0, self.count / self._processes)
            self._pace.record(1, (time.monotonic() - began) / at_once)
            self.count -= 1

    def wait_s(self) -> float:
        """About how long a file would wait for a process if it came now, seconds."""
        if self.count < self._processes:
            return 0.0
        return (self._pace.mean_s(1) or 0.0) * (self.count - self._processes + 1) / self._processes

    async def aclose(self) -> None:
        """End the processes."""
        await self._readers.aclose()
