"""A decoding process: it is sent one file at a time, and replaced when it has ended."""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from roadwork_serve.errors import BrokenMedia, MediaError, MediaTooLarge, NotReady, RoadworkError
from roadwork_serve.media.decode_response import max_bytes, parse_error, parse_seconds
from roadwork_serve.media.decode_worker import Task
from roadwork_serve.media.worker_process import LENGTHS, MAX_HEADER, READY, spawn
from roadwork_serve.profiles.media_limits import MediaLimits

T = TypeVar("T")
Timed = Callable[[float, bool, bool], None]
Parse = Callable[[Any, bytearray], T]
CLOSED = "the server is shutting down; send the file to another one, or try again later"
_LOG = logging.getLogger("ray.serve.roadwork.media")
_START_S = 60.0
_HEAVY_NICENESS = 10


@dataclass(slots=True, eq=False)
class DecodeJob:
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


class DecodeProcess:
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
                raise NotReady(CLOSED)
            await asyncio.shield(self._starting)
            if self._socket and self.process and self.process.poll() is None:
                return self._socket
            self._replace()
        raise RoadworkError("the decoding process does not start; see the server's log")

    async def run(self, *, task: Task, data: bytes, limits: MediaLimits, parse: Parse[T], job: DecodeJob) -> T:
        """Run a task on a file, and return its parsed result. Raises the errors of `DecodePool.read`."""
        worker = await self.started()
        if job.heavy:
            self._yield()
        began, completed = time.monotonic(), False
        self._began_s = self._cpu_s()
        try:
            async with asyncio.timeout(limits.max_decode_s):
                memory = {"memory_mib": job.memory_mib, "most_mib": job.most_mib}
                await send_message(worker, {"task": task, "limits": limits.model_dump()} | memory, data)
                header, body = await receive_message(worker, max_bytes(limits))
            result = parse_error(header) or parse(header, body)
            self._timed(parse_seconds(header, limits), True, job.heavy)
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
            lowest = max(_HEAVY_NICENESS, os.getpriority(os.PRIO_PROCESS, self.process.pid))
            os.setpriority(os.PRIO_PROCESS, self.process.pid, lowest)
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
                self.process, self.yields = spawn(self._module, theirs), False
            async with asyncio.timeout(_START_S):
                ready = (await receive_message(ours, 0))[0]
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


async def send_message(worker: socket.socket, header: Mapping[str, Any], body: bytes) -> None:
    """Send a message to a process. Raises OSError."""
    loop = asyncio.get_running_loop()
    encoded = json.dumps(header).encode()
    await loop.sock_sendall(worker, LENGTHS.pack(len(encoded), len(body)) + encoded)
    await loop.sock_sendall(worker, body)


async def receive_message(worker: socket.socket, most: int) -> tuple[Any, bytearray]:
    """Return a message with at most `most` bytes beside its JSON.

    Raises:
        OSError: The connection fails.
        EOFError: The connection is closed.
        ValueError: The message is invalid.
    """
    header_size, size = LENGTHS.unpack(await _receive_exactly(worker, LENGTHS.size))
    if header_size > MAX_HEADER or size > most:
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
