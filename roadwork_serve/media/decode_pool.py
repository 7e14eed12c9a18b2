"""Decoding in separate processes, so that a malicious file cannot block the event loop or exhaust memory here."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from roadwork_serve.errors import NotReady
from roadwork_serve.media import Clip, Photo, checked
from roadwork_serve.media.decode_cost import decode_cost, largest_mib
from roadwork_serve.media.decode_process import CLOSED, DecodeJob, DecodeProcess, Parse, Timed
from roadwork_serve.media.decode_response import parse_media, parse_page
from roadwork_serve.media.decode_worker import Task
from roadwork_serve.media.heavy_lane import HeavyLane, heavy_places
from roadwork_serve.profiles.media_limits import MediaLimits

T = TypeVar("T")
_LOG = logging.getLogger("ray.serve.roadwork.media")
_GRACE_S = 0.2  # a cancelled decode may continue this long, which is less than a process takes to start
_LIGHT_S = 1.5  # CPU time, in seconds, after which a file is heavy whatever its header declares
_CHECK_S = 0.75


class DecodePool:
    """A pool of processes that decode files. A process that ends is replaced. Needs a running event loop."""

    def __init__(
        self,
        count: int,
        module: str = "roadwork_serve.media.decode_worker",
        timed: Timed = lambda decode_s, completed, heavy: None,
    ) -> None:
        """Start the processes.

        Args:
            count: Number of processes.
            module: Module that a process runs.
            timed: Called with the decoding time of each file in seconds, measured in the process, so that a busy event
                loop does not count; False if it was aborted and would have taken longer; and True if it is heavy.
        """
        self._slots = asyncio.Semaphore(count)
        self._lane = HeavyLane(heavy_places(count))
        #: Protections that the decoding processes run without, because the kernel or platform lacks them.
        self.lacks: tuple[str, ...] = ()
        self._workers = [DecodeProcess(module, timed, self._started) for _ in range(count)]
        self._idle = list(self._workers)
        self._decoding: set[asyncio.Task[Any]] = set()

    @property
    def idle(self) -> int:
        """Number of idle processes."""
        return len(self._idle)

    @property
    def heavy(self) -> int:
        """Number of files in the heavy lane."""
        return self._lane.count

    @property
    def pids(self) -> list[int]:
        """Process ids of the started processes."""
        return [worker.process.pid for worker in self._workers if worker.process]

    async def ready(self) -> None:
        """Wait until every process has started.

        Raises:
            RoadworkError: A process cannot start.
        """
        await asyncio.gather(*(worker.started() for worker in self._workers))

    async def read(self, data: bytes, limits: MediaLimits) -> Photo | Clip:
        """Decode a file in the next idle process; see `media.read`. Heavy files leave one process to all others.

        Raises:
            MediaError: See `media.read`. BrokenMedia also if the file crashes its process, and MediaTooLarge also if it
                takes longer than max_decode_s.
            NotReady: The pool is closed.
        """
        mime = checked(data, limits)
        return await self._run("read", data, mime, limits, partial(parse_media, mime=mime, limits=limits))

    async def page(self, data: bytes, limits: MediaLimits) -> bytes:
        """Make the page of a photo in the next idle process; see `media.page`. Raises the errors of `read`."""
        return await self._run("page", data, checked(data, limits), limits, parse_page)

    async def _run(self, task: Task, data: bytes, mime: str, limits: MediaLimits, parse: Parse[T]) -> T:
        cost = decode_cost(data, mime, limits)
        job = DecodeJob(cost.memory_mib, largest_mib(limits), cost.heavy)
        work = partial(DecodeProcess.run, task=task, data=data, limits=limits, parse=parse, job=job)
        if not job.heavy:
            try:
                return await self._run_next(work, job)
            except _TooHeavy:
                job.stopped = False
        await self._lane.enter(job.memory_mib, job.most_mib)
        job.in_lane = True
        return await self._run_next(work, job)

    async def _run_next(self, work: Callable[[DecodeProcess], Coroutine[Any, Any, T]], job: DecodeJob) -> T:
        """Do the work in the next idle process. Raise _TooHeavy if a file proves heavy while the lane is full."""
        try:
            await self._slots.acquire()
        except asyncio.CancelledError:
            self._leave_lane(job)
            raise
        # A process cannot get its priority back, so heavy files keep to those that gave it up.
        worker = next((each for each in reversed(self._idle) if each.yields == job.heavy), self._idle[-1])
        self._idle.remove(worker)
        task = asyncio.create_task(work(worker), name="decode")
        self._decoding.add(task)
        if not job.heavy:
            self._check_later(task, worker, job)

        def done(task: asyncio.Task[T]) -> None:
            if job.check:
                job.check.cancel()
            self._decoding.remove(task)
            self._idle.append(worker)
            self._slots.release()
            self._leave_lane(job)
            if not task.cancelled():
                task.exception()  # mark as retrieved, also if the caller has been cancelled

        task.add_done_callback(done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled() and not _is_cancelled():
                raise (_TooHeavy() if job.stopped else NotReady(CLOSED)) from None
            asyncio.get_running_loop().call_later(_GRACE_S, task.cancel)
            raise

    def _check_later(self, task: asyncio.Task[Any], worker: DecodeProcess, job: DecodeJob) -> None:
        job.check = asyncio.get_running_loop().call_later(_CHECK_S, self._check, task, worker, job)

    def _check(self, task: asyncio.Task[Any], worker: DecodeProcess, job: DecodeJob) -> None:
        """Move a file that takes long into the heavy lane. If that is full, stop it: it starts anew in its turn."""
        if worker.busy_s() < _LIGHT_S:
            self._check_later(task, worker, job)
            return
        job.heavy = True
        job.in_lane = self._lane.try_enter(job.memory_mib, job.most_mib)
        if not job.in_lane:
            job.stopped = True
            task.cancel()

    def _leave_lane(self, job: DecodeJob) -> None:
        if job.in_lane:
            job.in_lane = False
            self._lane.leave(job.memory_mib)

    def _started(self, lacks: Sequence[str]) -> None:
        if lacks and not self.lacks:
            self.lacks = tuple(lacks)
            _LOG.warning("Decoding processes run without %s: the kernel or platform lacks it.", " and ".join(lacks))

    async def aclose(self) -> None:
        """Kill the processes."""
        for worker in self._workers:
            worker.close()
        for work in self._decoding:
            work.cancel()
        await asyncio.gather(*self._decoding, return_exceptions=True)
        await asyncio.gather(*(worker.aclose() for worker in self._workers))


class _TooHeavy(Exception):
    """A file was taken for light and is not, and the heavy lane is full."""


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
