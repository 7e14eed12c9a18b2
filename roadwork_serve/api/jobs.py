"""Jobs: clips too long for a request, kept on disk, cut into windows and judged one by one beside the requests."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from roadwork_serve.api.job_store import LEASE_S, ClaimedJob, JobStore
from roadwork_serve.api.problem_details import problem_of
from roadwork_serve.api.request_context import RequestContext
from roadwork_serve.errors import (
    BadRequest,
    DeadlineExceeded,
    MediaError,
    NotReady,
    Overloaded,
    RoadworkError,
    SlowUpload,
    UnsupportedMedia,
)
from roadwork_serve.media import sniff
from roadwork_serve.media.window_process import windows_of
from roadwork_serve.media.windows import Window
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.schema import Job, JobPage, JobSummary, JobWindow, Verdict

_LOG = logging.getLogger("ray.serve.roadwork.jobs")
_IDLE_S = 1.0  # between looks for a job that another replica has left
_WINDOW_DEADLINE_S = 120.0
_TRIES, _PAUSE_S = 60, 5.0  # of a window while the server is busy: jobs give way to requests
_WRITE_BYTES = 2**20
_HEAD = 2**16  # bytes that tell the format

T = TypeVar("T")


class HeldBytes(Protocol):
    """The bytes that a window holds."""

    def reserve_bytes(self, size: int) -> None:
        """Reserve bytes until the window is judged. Raises Overloaded."""
        ...


class Judge(Protocol):
    """The ingress as jobs need it; see `ClassifyService`."""

    profile: Profile

    def receiving(self) -> AbstractContextManager[HeldBytes]:
        """Hold bytes until the window is judged. Raises NotReady or Overloaded."""
        ...

    def admission(self) -> AbstractContextManager[None]:
        """Admit a window. Raises NotReady or Overloaded."""
        ...

    async def classify_media(self, data: bytes, deadline_s: float, request_id: str, context: RequestContext) -> Verdict:
        """Return the verdict on a window."""
        ...


class JobService:
    """Accepts jobs, and works on one at a time. Needs a running event loop.

    Args:
        judge: Judges the windows.
        pause_s: Time between the tries of a window while the server is busy, in seconds.
    """

    def __init__(self, judge: Judge, pause_s: float = _PAUSE_S) -> None:
        self._judge = judge
        self._pause_s = pause_s
        self._spec = judge.profile.jobs
        self._store = JobStore(self._spec)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jobs")
        self._arrived = asyncio.Event()
        self._working: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work on the jobs, those of earlier servers included."""
        if self._spec.enabled:
            self._working = asyncio.create_task(self._work(), name="jobs")

    async def submit(
        self, body: AsyncGenerator[bytes], declared: int | None, caller: str, key: str | None, filename: str
    ) -> JobSummary:
        """Write a clip to disk as it arrives, and return its job.

        Raises Overloaded if there is no room, UnsupportedMedia for no clip, and the errors of the body.
        """
        job = await self._run(self._store.reserve, caller, key, filename, declared or self._spec.max_bytes)
        try:
            async with asyncio.timeout(self._spec.max_upload_s):
                size = await self._receive(job, body)
            summary = await self._run(self._store.enqueue, job, size)
        except BaseException as error:
            await asyncio.shield(self._run(self._store.discard, job))
            if isinstance(error, TimeoutError):
                raise SlowUpload(
                    f"the clip did not arrive in {self._spec.max_upload_s:,g} s (jobs.max_upload_s); send it in parts"
                ) from None
            if isinstance(error, OSError):
                raise RoadworkError(f"the clip cannot be kept in {self._spec.folder}: {error.strerror}") from error
            raise
        self._arrived.set()
        return summary

    async def get(self, job: str, caller: str | None) -> Job:
        """Return a job. Raises NotFound if there is none, or it is another caller's; None is an admin."""
        return await self._run(self._store.get, job, caller)

    async def cancel(self, job: str, caller: str | None) -> JobSummary:
        """Cancel a job, if it has not ended, and return it. Raises NotFound; see `get`."""
        return await self._run(self._store.cancel, job, caller)

    async def list(self, caller: str | None, limit: int) -> JobPage:
        """Return the newest jobs, of one caller or, with None, of all."""
        return JobPage(jobs=await self._run(self._store.list, caller, limit))

    async def aclose(self) -> None:
        """Stop working. A job that has begun waits for the next server."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])
        self._thread.shutdown()

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args))

    async def _receive(self, job: str, body: AsyncGenerator[bytes]) -> int:
        """Write the body to the job's file, and return its size."""
        path, size, known, renewed_s = self._store.file(job), 0, False, time.monotonic()
        pending = bytearray()
        async with aclosing(body):
            async for chunk in body:
                pending += chunk
                if not known and len(pending) >= _HEAD:
                    _check_clip(pending)
                    known = True
                if known and len(pending) >= _WRITE_BYTES:
                    size += await asyncio.to_thread(_append, path, bytes(pending))
                    pending.clear()
                if time.monotonic() > renewed_s + LEASE_S / 3:
                    renewed_s = time.monotonic()
                    await self._run(self._store.renew, job)
        if not known:
            _check_clip(pending)
        return size + await asyncio.to_thread(_append, path, bytes(pending))

    async def _work(self) -> None:
        while True:
            try:
                job = await self._run(self._store.claim)
            except Exception as error:
                _LOG.error("Jobs cannot be read: %s", error, exc_info=not isinstance(error, RoadworkError))
                job = None
            if job is None:
                self._arrived.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._arrived.wait(), _IDLE_S)
                continue
            try:
                await self._do(job)
            except asyncio.CancelledError:
                await asyncio.shield(self._run(self._store.release, job.id))
                raise
            except Exception as error:
                if not isinstance(error, RoadworkError):
                    _LOG.exception("Job %s failed.", job.id)
                with suppress(RoadworkError):
                    await self._run(self._store.finish, job.id, problem_of(error, job.id))

    async def _do(self, job: ClaimedJob) -> None:
        """Judge the windows that have no result yet, until the job is cancelled."""
        profile, number = self._judge.profile, 0
        async with aclosing(windows_of(self._store.file(job.id), profile.media, self._spec.max_seconds)) as windows:
            async for window in windows:
                number += 1
                if number <= job.completed:
                    kept = await self._run(self._store.renew, job.id)
                else:
                    result = await self._judged(job, number, window)
                    kept = result is not None and await self._run(self._store.add_window, job.id, number, result)
                if not kept:
                    return
        await self._run(self._store.finish, job.id)

    async def _judged(self, job: ClaimedJob, number: int, window: Window) -> JobWindow | None:
        """Return the result of a window; None if the job was cancelled while it waited for its turn."""
        request_id = f"{job.id}.{number}"
        start_s, end_s = window.start_s, window.end_s
        context = RequestContext("batch", job.caller, job.key or job.id, job.filename)
        tries = 0
        while True:
            try:
                with self._judge.receiving() as held, self._judge.admission():
                    held.reserve_bytes(len(window.data))
                    deadline_s = time.monotonic() + _WINDOW_DEADLINE_S
                    verdict = await self._judge.classify_media(window.data, deadline_s, request_id, context)
                    if not window.complete:
                        verdict = verdict.model_copy(update={"incomplete": True})
                    return JobWindow(start_s=start_s, end_s=end_s, verdict=verdict)
            except NotReady:  # models may load for as long as they need
                pass
            except (Overloaded, DeadlineExceeded) as error:
                if (tries := tries + 1) >= _TRIES:
                    return JobWindow(start_s=start_s, end_s=end_s, problem=problem_of(error, request_id))
            except RoadworkError as error:
                return JobWindow(start_s=start_s, end_s=end_s, problem=problem_of(error, request_id))
            if not await self._run(self._store.renew, job.id):
                return None
            await asyncio.sleep(self._pause_s)


def _check_clip(head: bytearray) -> None:
    """Raise UnsupportedMedia or BadRequest if a file that begins so is no clip."""
    if not head:
        raise BadRequest("the body is empty; send the clip as the body")
    try:
        mime = sniff(bytes(head[:_HEAD]))
    except MediaError as error:
        raise UnsupportedMedia(str(error)) from None
    if not mime.startswith("video/"):
        raise UnsupportedMedia(f"the bytes are {mime}; a job takes a clip, and /v1/classify a photo")


def _append(path: Path, data: bytes) -> int:
    with open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)
    return len(data)
