"""Decoding in separate processes, so that a malicious file cannot block the event loop or exhaust memory here."""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.errors import BrokenMedia, MediaError, MediaTooLarge, NotReady, RoadworkError, UnsupportedMedia
from roadwork_serve.media import Clip, Frame, Photo, checked, sniff
from roadwork_serve.media.decode_cost import decode_cost, largest_mib
from roadwork_serve.media.decode_worker import LENGTHS, READY, Task
from roadwork_serve.media.heavy_lane import HeavyLane, heavy_places
from roadwork_serve.profiles.profile import MediaLimits

T = TypeVar("T")
Timed = Callable[[float, bool, bool], None]
Parse = Callable[[Any, bytearray], T]
_LOG = logging.getLogger("ray.serve.roadwork.media")
_ERRORS: Mapping[str, type[MediaError]] = {
    kind.__name__: kind for kind in (BrokenMedia, MediaTooLarge, UnsupportedMedia)
}
_CLOSED = "the server is shutting down; send the file to another one, or try again later"
_GRACE_S = 0.2  # a cancelled decode may continue this long, which is less than a process takes to start
_START_S = 60.0
_LIGHT_S = 1.5  # CPU time, in seconds, after which a file is heavy whatever its header declares
_CHECK_S = 0.75
_HEAVY_NICENESS = 10
_MAX_HEADER = 64 * 2**10  # bytes of JSON in a response
_MAX_MESSAGE = 2000  # characters
# Environment variables of the processes, without keys and tokens.
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT")


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
        self._workers = [_Worker(module, timed, self._started) for _ in range(count)]
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
        return await self._run("read", data, mime, limits, partial(_parse, mime=mime, limits=limits))

    async def page(self, data: bytes, limits: MediaLimits) -> bytes:
        """Make the page of a photo in the next idle process; see `media.page`. Raises the errors of `read`."""
        return await self._run("page", data, checked(data, limits), limits, _parse_page)

    async def _run(self, task: Task, data: bytes, mime: str, limits: MediaLimits, parse: Parse[T]) -> T:
        cost = decode_cost(data, mime, limits)
        job = _Job(cost.memory_mib, largest_mib(limits), cost.heavy)
        work = partial(_Worker.run, task=task, data=data, limits=limits, parse=parse, job=job)
        if not job.heavy:
            try:
                return await self._run_next(work, job)
            except _TooHeavy:
                job.stopped = False
        await self._lane.enter(job.memory_mib, job.most_mib)
        job.in_lane = True
        return await self._run_next(work, job)

    async def _run_next(self, work: Callable[["_Worker"], Coroutine[Any, Any, T]], job: "_Job") -> T:
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
                raise (_TooHeavy() if job.stopped else NotReady(_CLOSED)) from None
            asyncio.get_running_loop().call_later(_GRACE_S, task.cancel)
            raise

    def _check_later(self, task: asyncio.Task[Any], worker: "_Worker", job: "_Job") -> None:
        job.check = asyncio.get_running_loop().call_later(_CHECK_S, self._check, task, worker, job)

    def _check(self, task: asyncio.Task[Any], worker: "_Worker", job: "_Job") -> None:
        """Move a file that takes long into the heavy lane. If that is full, stop it: it starts anew in its turn."""
        if worker.busy_s() < _LIGHT_S:
            self._check_later(task, worker, job)
            return
        job.heavy = True
        job.in_lane = self._lane.try_enter(job.memory_mib, job.most_mib)
        if not job.in_lane:
            job.stopped = True
            task.cancel()

    def _leave_lane(self, job: "_Job") -> None:
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


@dataclass(slots=True, eq=False)
class _Job:
    """A file that is decoded or waits for it."""

    memory_mib: int
    #: Memory of all files in the heavy lane.
    most_mib: int
    heavy: bool
    in_lane: bool = False
    #: True if it was stopped because it is heavy and the lane is full.
    stopped: bool = False
    #: The next check whether it is heavy.
    check: asyncio.TimerHandle | None = None


class _Worker:
    """A decoding process, which is replaced when it has ended."""

    def __init__(self, module: str, timed: Timed, started: Callable[[Sequence[str]], None]) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        #: True if the process has a lower CPU priority, since its first heavy file.
        self.yields = False
        self._timed, self._started = timed, started
        self._socket: socket.socket | None = None
        self._module = module
        self._closed = False
        self._began_s: float | None = None  # CPU time of the process when it got its file
        self._starting = asyncio.create_task(self._start(), name="decode worker")

    async def started(self) -> socket.socket:
        """Return the socket of a running process.

        Raises:
            NotReady: The pool is closed.
            RoadworkError: The process cannot start.
        """
        for _ in range(2):
            if self._closed:
                raise NotReady(_CLOSED)
            await asyncio.shield(self._starting)
            if self._socket and self.process and self.process.poll() is None:
                return self._socket
            self._replace()
        raise RoadworkError("the decoding process does not start; see the server's log")

    async def run(self, *, task: Task, data: bytes, limits: MediaLimits, parse: Parse[T], job: _Job) -> T:
        """Run a task on a file, and return its parsed result. Raises the errors of `DecodePool.read`."""
        worker = await self.started()
        if job.heavy:
            self._yield()
        began, completed = time.monotonic(), False
        self._began_s = self._cpu_s()
        try:
            async with asyncio.timeout(limits.max_decode_s):
                memory = {"memory_mib": job.memory_mib, "most_mib": job.most_mib}
                await _send(worker, {"task": task, "limits": limits.model_dump()} | memory, data)
                header, body = await _receive(worker, _max_bytes(limits))
            result = _error(header) or parse(header, body)
            self._timed(_decode_s(header, limits), True, job.heavy)
            completed = True
        except TimeoutError:
            raise MediaTooLarge(
                f"decoding the file takes longer than {limits.max_decode_s:g} s (max_decode_s); send a smaller one"
            ) from None
        except Exception as error:  # the process died, or sent an invalid response
            _LOG.warning("A decoding process failed on a file of %d bytes: %r", len(data), error)
            raise BrokenMedia("the file crashes the decoder; export it again, or send another") from None
        finally:
            self._began_s = None
            if not completed:
                self._timed(time.monotonic() - began, False, job.heavy)
                self._replace()
        if isinstance(result, MediaError):
            raise result
        return result

    def _yield(self) -> None:
        """Lower the CPU priority of the process, to that of the stages."""
        if self.process and not self.yields:
            os.setpriority(os.PRIO_PROCESS, self.process.pid, _HEAVY_NICENESS)
            self.yields = True

    def busy_s(self) -> float:
        """Return the CPU time that the current file has taken so far, in seconds; 0 if there is none."""
        return 0.0 if self._began_s is None else self._cpu_s() - self._began_s

    def _cpu_s(self) -> float:
        """Return the CPU time of the process in seconds; time that passed where the system does not tell."""
        if sys.platform != "linux" or self.process is None:
            return time.monotonic()
        try:
            return time.clock_gettime(~self.process.pid << 3 | 2)  # CPUCLOCK_SCHED of linux/posix-timers.h
        except OSError:  # it has ended
            return 0.0

    def close(self) -> None:
        """Do not start further processes."""
        self._closed = True

    async def aclose(self) -> None:
        """See `DecodePool`."""
        self._starting.cancel()
        await asyncio.wait([self._starting])
        await self._end()

    def _replace(self) -> None:
        self._starting.cancel()
        self._starting = asyncio.create_task(self._start(), name="decode worker")

    async def _start(self) -> None:
        """Start a process once the one before has ended. There is no socket if it fails."""
        await self._end()
        if self._closed:
            return
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                self.process, self.yields = _spawn(self._module, theirs), False
            async with asyncio.timeout(_START_S):
                ready = (await _receive(ours, 0))[0]
                if ready["kind"] != READY["kind"]:
                    raise ValueError("it does not report ready")
                self._started(ready["lacks"])
        except (OSError, EOFError, ValueError, KeyError) as error:
            _LOG.error("A decoding process does not start: %r", error)
            ours.close()
            return
        except BaseException:
            ours.close()
            raise
        self._socket = ours

    async def _end(self) -> None:
        """Kill the process and wait until it has ended."""
        if self._socket:
            self._socket.close()
            self._socket = None
        if self.process:
            self.process.kill()
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self.process.wait))


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _spawn(module: str, theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start a Python process that runs the module, with the socket as its standard input. Takes milliseconds."""
    return subprocess.Popen(  # noqa: S603 - no argument comes from outside
        [sys.executable, "-P", "-s", "-m", module],
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        env={name: os.environ[name] for name in _INHERITED if name in os.environ}
        | {
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(each or os.getcwd() for each in sys.path),
            "PYTHONWARNINGS": "ignore",
        },
    )


async def _send(worker: socket.socket, header: Mapping[str, Any], body: bytes) -> None:
    loop = asyncio.get_running_loop()
    encoded = json.dumps(header).encode()
    await loop.sock_sendall(worker, LENGTHS.pack(len(encoded), len(body)) + encoded)
    await loop.sock_sendall(worker, body)


async def _receive(worker: socket.socket, most: int) -> tuple[Any, bytearray]:
    """Return a message with at most `most` bytes beside its JSON.

    Raises:
        OSError: The connection fails.
        EOFError: The connection is closed.
        ValueError: The message is invalid.
    """
    header_size, size = LENGTHS.unpack(await _receive_exactly(worker, LENGTHS.size))
    if header_size > _MAX_HEADER or size > most:
        raise ValueError(f"its response has {header_size:,} and {size:,} bytes")
    return json.loads(await _receive_exactly(worker, header_size)), await _receive_exactly(worker, size)


async def _receive_exactly(worker: socket.socket, length: int) -> bytearray:
    loop = asyncio.get_running_loop()
    parts = bytearray(length)
    room = memoryview(parts)
    while room:
        got = await loop.sock_recv_into(worker, room)
        if not got:
            raise EOFError("the connection was closed")
        room = room[got:]
    return parts


def _max_bytes(limits: MediaLimits) -> int:
    """Return the largest size of a decoded file in bytes."""
    frames = limits.frames * (3 * limits.thumb_side**2 + 3 * limits.frame_side**2 + 2**16)
    return max(frames, 3 * limits.page_side**2 + 2**16)


def _error(header: Any) -> MediaError | None:
    """Return the error in a response. Raise KeyError or TypeError if it is invalid."""
    return _ERRORS[header["error"]](str(header["message"])[:_MAX_MESSAGE]) if header["kind"] == "error" else None


def _parse_page(header: Any, body: bytearray) -> bytes:
    """Return the page in a response. Raise ValueError, KeyError or TypeError if it is invalid."""
    if header["kind"] != "page" or sniff(bytes(body[:16])) != "image/jpeg":
        raise ValueError(f"its kind is {header['kind']!r}, or its page is no JPEG")
    return bytes(body)


def _parse(header: Any, body: bytearray, mime: str, limits: MediaLimits) -> Photo | Clip:
    """Return the media in a response. Raise ValueError, KeyError or TypeError if it is invalid."""
    match header["kind"]:
        case "photo":
            (thumb,) = _thumbs(body, 0, 1, limits.thumb_side)
            return Photo(mime, int(header["width"]), int(header["height"]), thumb)
        case "clip":
            sizes = [(float(at_s), int(size)) for at_s, size in header["frames"]]
            if not 1 <= len(sizes) <= limits.frames or any(size < 1 for _, size in sizes):
                raise ValueError("its frames are invalid")
            ends = np.cumsum([size for _, size in sizes]).tolist()
            thumbs = _thumbs(body, ends[-1], len(sizes), limits.thumb_side)
            frames = tuple(
                Frame(at_s, bytes(body[end - size : end]), thumb)
                for (at_s, size), end, thumb in zip(sizes, ends, thumbs, strict=True)
            )
            return Clip(mime, int(header["width"]), int(header["height"]), float(header["seconds"]), frames)
        case other:
            raise ValueError(f"its kind is {other!r}")


def _decode_s(header: Any, limits: MediaLimits) -> float:
    """Return the reported decoding time in seconds. Raise ValueError, KeyError or TypeError if it is invalid."""
    decode_s = float(header["took_s"])
    if not 0 <= decode_s <= limits.max_decode_s:
        raise ValueError(f"it reports a decoding time of {decode_s} s")
    return decode_s


def _thumbs(body: bytearray, start: int, count: int, side: int) -> NDArray[np.uint8]:
    """Return the thumbnails, uint8 [count, side, side, 3], from `start` to the end of the body."""
    return np.frombuffer(body, np.uint8, offset=start).reshape(count, side, side, 3)
