"""Decoding in separate processes, so that a malicious file cannot block the event loop or exhaust memory here."""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.errors import BrokenMedia, MediaError, MediaTooLarge, NotReady, RoadworkError, UnsupportedMedia
from roadwork_serve.media import Clip, Frame, Photo, checked
from roadwork_serve.media.decode_worker import LENGTHS, READY
from roadwork_serve.profiles.profile import MediaLimits

_LOG = logging.getLogger("ray.serve.roadwork.media")
_ERRORS: Mapping[str, type[MediaError]] = {
    kind.__name__: kind for kind in (BrokenMedia, MediaTooLarge, UnsupportedMedia)
}
_CLOSED = "the server is shutting down; send the file to another one, or try again later"
_GRACE_S = 0.2  # a cancelled decode may continue this long, which is less than a process takes to start
_START_S = 60.0
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
        timed: Callable[[float, bool], None] = lambda decode_s, completed: None,
    ) -> None:
        """Start the processes.

        Args:
            count: Number of processes.
            module: Module that a process runs.
            timed: Called with the decoding time of each file in seconds, measured in the process, so that a busy event
                loop does not count; and False if it was aborted and would have taken longer.
        """
        self._slots = asyncio.Semaphore(count)
        #: Protections that the decoding processes run without, because the kernel or platform lacks them.
        self.lacks: tuple[str, ...] = ()
        self._workers = [_Worker(module, timed, self._started) for _ in range(count)]
        self._idle = list(self._workers)
        self._decoding: set[asyncio.Task[Photo | Clip]] = set()

    @property
    def idle(self) -> int:
        """Number of idle processes."""
        return len(self._idle)

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
        """Decode a file in the next idle process; see `media.read`.

        Raises:
            MediaError: See `media.read`. BrokenMedia also if the file crashes its process, and MediaTooLarge also if it
                takes longer than max_decode_s.
            NotReady: The pool is closed.
        """
        mime = checked(data, limits)
        await self._slots.acquire()
        worker = self._idle.pop()
        work = asyncio.create_task(worker.read(data, mime, limits), name="decode")
        self._decoding.add(work)

        def done(work: asyncio.Task[Photo | Clip]) -> None:
            self._decoding.remove(work)
            self._idle.append(worker)
            self._slots.release()
            if not work.cancelled():
                work.exception()  # mark as retrieved, also if the caller has been cancelled

        work.add_done_callback(done)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if work.cancelled() and not _is_cancelled():
                raise NotReady(_CLOSED) from None
            asyncio.get_running_loop().call_later(_GRACE_S, work.cancel)
            raise

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


class _Worker:
    """A decoding process, which is replaced when it has ended."""

    def __init__(
        self, module: str, timed: Callable[[float, bool], None], started: Callable[[Sequence[str]], None]
    ) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._timed, self._started = timed, started
        self._socket: socket.socket | None = None
        self._module = module
        self._closed = False
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

    async def read(self, data: bytes, mime: str, limits: MediaLimits) -> Photo | Clip:
        """See `DecodePool`."""
        worker = await self.started()
        began, completed = time.monotonic(), False
        try:
            async with asyncio.timeout(limits.max_decode_s):
                await _send(worker, limits.model_dump(), data)
                header, body = await _receive(worker, _max_bytes(limits))
            result = _parse(header, body, data, mime, limits)
            self._timed(_decode_s(header, limits), True)
            completed = True
        except TimeoutError:
            raise MediaTooLarge(
                f"decoding the file takes longer than {limits.max_decode_s:g} s (max_decode_s); send a smaller one"
            ) from None
        except Exception as error:  # the process died, or sent an invalid response
            _LOG.warning("A decoding process failed on a %s file of %d bytes: %r", mime, len(data), error)
            raise BrokenMedia("the file crashes the decoder; export it again, or send another") from None
        finally:
            if not completed:
                self._timed(time.monotonic() - began, False)
                self._replace()
        if isinstance(result, MediaError):
            raise result
        return result

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
                self.process = _spawn(self._module, theirs)
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
    return 3 * limits.frames * (limits.thumb_side**2 + limits.frame_side**2) + limits.frames * 2**16


def _parse(header: Any, body: bytearray, data: bytes, mime: str, limits: MediaLimits) -> Photo | Clip | MediaError:
    """Parse a response. Raise ValueError, KeyError or TypeError if it is invalid."""
    match header["kind"]:
        case "error":
            return _ERRORS[header["error"]](str(header["message"])[:_MAX_MESSAGE])
        case "photo":
            (thumb,) = _thumbs(body, 0, 1, limits.thumb_side)
            return Photo(data, mime, int(header["width"]), int(header["height"]), thumb)
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
            return Clip(data, mime, int(header["width"]), int(header["height"]), float(header["seconds"]), frames)
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
