"""Forward: classification of images, with a cache, since many validators send the same image within a minute."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from roadwork_serve.errors import DeadlineExceeded, StageLost
from roadwork_serve.miner.priority import PrioritySemaphore
from roadwork_serve.schema import Verdict

_TTL_S = 60.0
_MAX_ENTRIES = 4096
_RESERVE_S = 0.25  # subtracted from the deadline of the cascade, so that its verdict arrives in time
_LONGER_S = 0.5  # a call with this much more time does not accept a verdict that another deadline cut short


class Cascade(Protocol):
    """The cascade, over Ray or HTTP."""

    async def ready(self) -> None:
        """Return if the cascade accepts requests.

        Raises:
            RoadworkError: It does not.
        """
        ...

    async def classify(self, data: bytes, deadline_ms: int, request_id: str, key: str) -> Verdict:
        """Return the verdict on an encoded image.

        Raises:
            RoadworkError: There is no verdict.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Entry:
    """The classification of an image, running or done."""

    task: asyncio.Task[Verdict]
    #: Expiry time in seconds.
    expires_s: float
    #: Deadline of the call that started it.
    deadline_s: float


class ForwardCache:
    """Verdicts by the hash of the image. Concurrent calls with the same image share one classification."""

    def __init__(
        self, cascade: Cascade, semaphore: PrioritySemaphore, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Create the cache.

        Args:
            cascade: Classifies images.
            semaphore: Limits concurrent classifications, in order of stake. A cached verdict does not wait for it.
            clock: Returns the time in seconds.
        """
        self._cascade = cascade
        self._semaphore = semaphore
        self._clock = clock
        self._entries: dict[str, _Entry] = {}  # oldest first

    async def classify(
        self, data: bytes, deadline_s: float, request_id: str, key: str, stake: float = 0.0
    ) -> tuple[Verdict, bool]:
        """Return the verdict, and whether it is that of another call.

        An error is raised in all calls that share the classification. Errors and degraded verdicts are not cached, and
        a call with a longer deadline than the one it joined tries again.

        Args:
            data: Encoded image.
            deadline_s: Deadline on the clock of `time.monotonic()`.
            request_id: Name of the request.
            key: API key, for the statistics: the hotkey.
            stake: Priority.

        Raises:
            CallRejected: The queue is full.
            RoadworkError: There is no verdict.
            TimeoutError: The deadline has passed.
        """
        name = hashlib.sha256(data).hexdigest()
        async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
            while True:
                self._evict()
                entry = self._entries.get(name)
                cached = entry is not None
                if entry is None:
                    entry = self._start(name, data, deadline_s, request_id, key, stake)
                has_longer = deadline_s > entry.deadline_s + _LONGER_S
                try:
                    verdict = await asyncio.shield(entry.task)
                except DeadlineExceeded:
                    if not has_longer:
                        raise
                except asyncio.CancelledError:
                    if entry.task.cancelled() and not _caller_cancelled():
                        raise StageLost("the classification of this image was cancelled") from None
                    raise
                else:
                    if not (has_longer and verdict.exit.reason == "deadline"):
                        return verdict, cached

    def _start(self, name: str, data: bytes, deadline_s: float, request_id: str, key: str, stake: float) -> _Entry:
        async def classify() -> Verdict:
            async with self._semaphore.slot(stake):
                left_s = deadline_s - _RESERVE_S - time.monotonic()
                return await self._cascade.classify(data, max(1, round(1000 * left_s)), request_id, key)

        task = asyncio.create_task(classify(), name="classify")
        task.add_done_callback(lambda done: self._settle(name, done))
        entry = self._entries[name] = _Entry(task, self._clock() + _TTL_S, deadline_s)
        return entry

    async def aclose(self) -> None:
        """Cancel running classifications."""
        tasks = [entry.task for entry in self._entries.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _settle(self, name: str, task: asyncio.Task[Verdict]) -> None:
        short = task.cancelled() or task.exception() is not None or _cut_short(task.result())
        if short and (entry := self._entries.get(name)) and entry.task is task:
            del self._entries[name]

    def _evict(self) -> None:
        now = self._clock()
        for name, entry in list(self._entries.items()):
            if entry.expires_s > now and len(self._entries) <= _MAX_ENTRIES:
                return
            if entry.task.done():
                del self._entries[name]


def _cut_short(verdict: Verdict) -> bool:
    return verdict.degraded or verdict.exit.reason == "deadline"


def _caller_cancelled() -> bool:
    """Return True if the current task is cancelled, and not only the task it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
