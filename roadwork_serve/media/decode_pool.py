"""Media read in processes of their own: a hostile file can hold neither the loop, nor the GIL, nor the memory here."""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
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
_CLOSED = "the server stops; send the file to another, or again in a while"
_GRACE_S = 0.2  # a file nobody waits for may still be read for so long: less than another process costs
_START_S = 60.0
_LONGEST_HEADER = 64 * 2**10  # bytes of JSON in an answer
_LONGEST_MESSAGE = 2000  # letters
# What a process is told of this one's environment; keys and tokens stay here.
_TOLD = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT")


class DecodePool:
    """Reads files, each in one of `count` processes, started at once and anew when they end. Needs a running loop.

    module: what a process runs. See `roadwork_serve.media.decode_worker`.
    timed: is told what every file took, seconds by the clock of the process that read it, so that a loop which is busy
    here does not count; false after it for a file that was given up, which would have taken longer.
    """

    def __init__(
        self,
        count: int,
        module: str = "roadwork_serve.media.decode_worker",
        timed: Callable[[float, bool], None] = lambda took_s, whole: None,
    ) -> None:
        self._places = asyncio.Semaphore(count)
        self._all = [_Reader(module, timed) for _ in range(count)]
        self._free = list(self._all)
        self._working: set[asyncio.Task[Photo | Clip]] = set()

    @property
    def free(self) -> int:
        """Processes that read nothing at the moment."""
        return len(self._free)

    @property
    def pids(self) -> list[int]:
        """Of the processes that have been started."""
        return [reader.process.pid for reader in self._all if reader.process]

    async def ready(self) -> None:
        """Wait until every process is up. Raises RoadworkError when one cannot be."""
        await asyncio.gather(*(reader.up() for reader in self._all))

    async def read(self, data: bytes, limits: MediaLimits) -> Photo | Clip:
        """As `media.read`, in its turn. Raises what that raises, MediaTooLarge past max_decode_s, NotReady when closed.

        A file that ends its process is BrokenMedia, and harms no other.
        """
        mime = checked(data, limits)
        await self._places.acquire()
        reader = self._free.pop()
        work = asyncio.create_task(reader.read(data, mime, limits), name="read")
        self._working.add(work)

        def done(work: asyncio.Task[Photo | Clip]) -> None:
            self._working.remove(work)
            self._free.append(reader)
            self._places.release()
            if not work.cancelled():
                work.exception()  # seen, whether anybody waits or not

        work.add_done_callback(done)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if work.cancelled() and not _is_cancelled():
                raise NotReady(_CLOSED) from None
            asyncio.get_running_loop().call_later(_GRACE_S, work.cancel)
            raise

    async def aclose(self) -> None:
        """End the processes, whatever they are at."""
        for reader in self._all:
            reader.close()
        for work in self._working:
            work.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
        await asyncio.gather(*(reader.aclose() for reader in self._all))


class _Reader:
    """A process, and another in its place when it has ended."""

    def __init__(self, module: str, timed: Callable[[float, bool], None]) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._timed = timed
        self._socket: socket.socket | None = None
        self._module = module
        self._closed = False
        self._starting = asyncio.create_task(self._start(), name="reader")

    async def up(self) -> socket.socket:
        """Where a process listens. Raises NotReady when they are to end, RoadworkError when none comes up."""
        for _ in range(2):
            if self._closed:
                raise NotReady(_CLOSED)
            await asyncio.shield(self._starting)
            if self._socket and self.process and self.process.poll() is None:
                return self._socket
            self._replace()
        raise RoadworkError("the process that reads media does not start; the server's log says why")

    async def read(self, data: bytes, mime: str, limits: MediaLimits) -> Photo | Clip:
        """See `DecodePool`."""
        other = await self.up()
        began, well = time.monotonic(), False
        try:
            async with asyncio.timeout(limits.max_decode_s):
                await _send(other, limits.model_dump(), data)
                header, body = await _received(other, _most(limits))
            answer = _answer(header, body, data, mime, limits)
            self._timed(_took_s(header, limits), True)
            well = True
        except TimeoutError:
            raise MediaTooLarge(
                f"reading the file takes longer than {limits.max_decode_s:g} s (max_decode_s); send a smaller one"
            ) from None
        except Exception as error:  # it died, or says what makes no sense
            _LOG.warning("A file of %d bytes, %s, ended the process that read it: %r", len(data), mime, error)
            raise BrokenMedia("the file broke what reads it; export it again, or send another") from None
        finally:
            if not well:
                self._timed(time.monotonic() - began, False)
                self._replace()
        if isinstance(answer, MediaError):
            raise answer
        return answer

    def close(self) -> None:
        """Start no other process."""
        self._closed = True

    async def aclose(self) -> None:
        """See `DecodePool`."""
        self._starting.cancel()
        await asyncio.wait([self._starting])
        await self._end()

    def _replace(self) -> None:
        self._starting.cancel()
        self._starting = asyncio.create_task(self._start(), name="reader")

    async def _start(self) -> None:
        """Another process, once the one before has ended. Leaves no socket when it does not come up."""
        await self._end()
        if self._closed:
            return
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                self.process = _spawned(self._module, theirs)
            async with asyncio.timeout(_START_S):
                if (await _received(ours, 0))[0] != READY:
                    raise ValueError("it does not say that it is ready")
        except (OSError, EOFError, ValueError) as error:
            _LOG.error("The process that reads media does not start: %r", error)
            ours.close()
            return
        except BaseException:
            ours.close()
            raise
        self._socket = ours

    async def _end(self) -> None:
        """Kill the process, and wait until it is gone."""
        if self._socket:
            self._socket.close()
            self._socket = None
        if self.process:
            self.process.kill()
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self.process.wait))


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _spawned(module: str, theirs: socket.socket) -> subprocess.Popen[bytes]:
    """A process of this Python that runs the module, with the socket as its standard input. Takes milliseconds."""
    return subprocess.Popen(  # noqa: S603 - nothing of it comes from outside
        [sys.executable, "-P", "-s", "-m", module],
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        env={name: os.environ[name] for name in _TOLD if name in os.environ}
        | {"PYTHONPATH": os.pathsep.join(each or os.getcwd() for each in sys.path), "PYTHONWARNINGS": "ignore"},
    )


async def _send(other: socket.socket, header: Mapping[str, Any], body: bytes) -> None:
    loop = asyncio.get_running_loop()
    told = json.dumps(header).encode()
    await loop.sock_sendall(other, LENGTHS.pack(len(told), len(body)) + told)
    await loop.sock_sendall(other, body)


async def _received(other: socket.socket, most: int) -> tuple[Any, bytearray]:
    """A message. most: bytes it may have beside its JSON. Raises OSError, EOFError, and ValueError for nonsense."""
    header_size, size = LENGTHS.unpack(await _exactly(other, LENGTHS.size))
    if header_size > _LONGEST_HEADER or size > most:
        raise ValueError(f"its answer has {header_size:,} and {size:,} bytes")
    return json.loads(await _exactly(other, header_size)), await _exactly(other, size)


async def _exactly(other: socket.socket, length: int) -> bytearray:
    loop = asyncio.get_running_loop()
    parts = bytearray(length)
    room = memoryview(parts)
    while room:
        got = await loop.sock_recv_into(other, room)
        if not got:
            raise EOFError("it hung up")
        room = room[got:]
    return parts


def _most(limits: MediaLimits) -> int:
    """Bytes of what was read of a file."""
    return 3 * limits.frames * (limits.thumb_side**2 + limits.frame_side**2) + limits.frames * 2**16


def _answer(header: Any, body: bytearray, data: bytes, mime: str, limits: MediaLimits) -> Photo | Clip | MediaError:
    """What a process said. Raises ValueError, KeyError or TypeError when that makes no sense."""
    match header["kind"]:
        case "error":
            return _ERRORS[header["error"]](str(header["message"])[:_LONGEST_MESSAGE])
        case "photo":
            (thumb,) = _thumbs(body, 0, 1, limits.thumb_side)
            return Photo(data, mime, int(header["width"]), int(header["height"]), thumb)
        case "clip":
            told = [(float(at_s), int(size)) for at_s, size in header["frames"]]
            if not 1 <= len(told) <= limits.frames or any(size < 1 for _, size in told):
                raise ValueError("it tells of frames that cannot be")
            ends = np.cumsum([size for _, size in told]).tolist()
            thumbs = _thumbs(body, ends[-1], len(told), limits.thumb_side)
            frames = tuple(
                Frame(at_s, bytes(body[end - size : end]), thumb)
                for (at_s, size), end, thumb in zip(told, ends, thumbs, strict=True)
            )
            return Clip(data, mime, int(header["width"]), int(header["height"]), float(header["seconds"]), frames)
        case other:
            raise ValueError(f"it answers with {other!r}")


def _took_s(header: Any, limits: MediaLimits) -> float:
    """Seconds that a process says it was at a file. Raises ValueError, KeyError or TypeError when that cannot be."""
    took_s = float(header["took_s"])
    if not 0 <= took_s <= limits.max_decode_s:
        raise ValueError(f"it says that it took {took_s} s")
    return took_s


def _thumbs(body: bytearray, start: int, count: int, side: int) -> NDArray[np.uint8]:
    """uint8 [count, side, side, 3], which is what the body ends with, from `start` on. Raises ValueError."""
    return np.frombuffer(body, np.uint8, offset=start).reshape(count, side, side, 3)
