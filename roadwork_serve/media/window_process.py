"""The windows of a long clip, cut in a confined process of its own, so that a malicious file harms nothing else."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

from roadwork_serve.errors import BrokenMedia, MediaTooLarge
from roadwork_serve.media.decode_process import receive_message, send_message
from roadwork_serve.media.decode_response import parse_error
from roadwork_serve.media.windows import Window
from roadwork_serve.media.worker_process import spawn
from roadwork_serve.profiles.media_limits import MediaLimits

_MODULE = "roadwork_serve.media.window_worker"
_WINDOW_S = 120.0  # to cut a window, of the largest file on a busy machine
_NICENESS = 10
_WORST = "the file crashes the program that cuts it; export it again, or send another"


async def windows_of(path: Path, limits: MediaLimits, max_seconds: float) -> AsyncGenerator[Window]:
    """Yield the windows of the clip in a file; see `windows.read_windows` for the errors.

    The process waits while a window is in use, so that one at a time is in memory here.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    process = None
    try:
        with theirs, path.open("rb") as file:
            process = spawn(_MODULE, theirs, file)
        os.setpriority(os.PRIO_PROCESS, process.pid, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, process.pid)))
        try:
            await send_message(ours, {"limits": limits.model_dump(), "max_seconds": max_seconds}, b"")
            last_s = 0.0
            while True:
                async with asyncio.timeout(_WINDOW_S):
                    header, body = await receive_message(ours, limits.max_bytes)
                if (error := parse_error(header)) is not None:
                    raise error
                if header["kind"] == "end":
                    return
                times = float(header["start_s"]), float(header["end_s"])
                window = Window(*times, bytes(body), header["complete"] is True)
                if not last_s <= window.start_s <= window.end_s <= max_seconds:
                    raise ValueError(f"its window is from {window.start_s} to {window.end_s} s")
                last_s = window.start_s
                yield window
        except TimeoutError:
            raise MediaTooLarge(f"cutting a part takes longer than {_WINDOW_S:g} s; send the clip in parts") from None
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            raise BrokenMedia(_WORST) from None
    finally:
        ours.close()
        if process is not None:
            process.kill()
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, process.wait))
