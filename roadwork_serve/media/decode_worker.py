"""A process that decodes files for its parent, so that a malicious file harms nothing else. `DecodePool` starts it.

It receives a file, its limits and the task over the socket at its standard input, and sends back the result. A message
is the lengths of its two parts, then JSON and bytes. Nothing is pickled, so that an attacker who took over this process
could send wrong data but run no code in the parent. It is confined before the first file: see `confinement`. It ends
when the parent closes the socket.

Like all of `roadwork_serve.media` it imports neither pydantic nor asyncio, to start faster and take less memory.
"""

import json
import math
import resource
import signal
import socket
import struct
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, cast

# Pillow and PyAV import these when a file needs them, which a confined process cannot.
import av.subtitles.codeccontext
import av.subtitles.stream  # noqa: F401
import numpy as np
from PIL import Image, ImageColor, TiffImagePlugin  # noqa: F401

from roadwork_serve.errors import MediaError
from roadwork_serve.media import Clip, Photo, page, read
from roadwork_serve.media.confinement import confine

if TYPE_CHECKING:
    from roadwork_serve.profiles.profile import MediaLimits

LENGTHS = struct.Struct(">II")  # of the JSON and of the bytes
READY: dict[str, Any] = {"kind": "ready"}
Task = Literal["read", "page"]
_BASE_MIB = 256  # libraries take 110 MiB; the rest is a reserve


def main() -> None:
    """Decode files until the parent closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the socket
    Image.preinit()
    with socket.socket(fileno=0) as parent:
        try:
            _send(parent, READY | {"lacks": confine()}, b"")
            while (message := _receive(parent)) is not None:
                limits = cast("MediaLimits", SimpleNamespace(**message[0]["limits"]))
                _limit_memory(message[0]["memory_mib"], message[0]["most_mib"])
                began = time.monotonic()
                header, body = _decode(message[1], limits, message[0]["task"])
                _send(parent, header | {"took_s": time.monotonic() - began}, body)
        except ConnectionError:
            return


def _decode(data: bytes, limits: "MediaLimits", task: Task) -> tuple[dict[str, Any], bytes]:
    """Return the result of a task, or its error, as a message. Time is limited."""
    signal.alarm(math.ceil(limits.max_decode_s) + 1)  # the parent kills this process earlier, if it is alive
    try:
        if task == "page":
            return {"kind": "page"}, page(data, limits)
        media = read(data, limits)
    except MediaError as error:
        return {"kind": "error", "error": type(error).__name__, "message": str(error)}, b""
    finally:
        signal.alarm(0)
    header: dict[str, Any] = {"kind": media.kind, "width": media.width, "height": media.height}
    match media:
        case Photo():
            return header, media.thumb.tobytes()
        case Clip():
            header |= {
                "seconds": media.seconds,
                "frames": [(each.timestamp_s, len(each.jpeg)) for each in media.frames],
            }
            return header, b"".join([*media.images, np.ascontiguousarray(media.thumbs).data])


def _limit_memory(needs_mib: int, most_mib: int) -> None:
    """Limit the memory of this process to what a file needs, and for good to what the most expensive file needs.

    Linux counts all of it, other systems only a part.
    """
    needs, most = ((_BASE_MIB + each) * 2**20 for each in (needs_mib, most_mib))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (min(needs, most), most))


def _send(parent: socket.socket, header: dict[str, Any], body: bytes) -> None:
    encoded = json.dumps(header).encode()
    parent.sendall(LENGTHS.pack(len(encoded), len(body)) + encoded)
    parent.sendall(body)


def _receive(parent: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    """Return a message; None once the socket is closed."""
    lengths = parent.recv(LENGTHS.size, socket.MSG_WAITALL)
    if len(lengths) < LENGTHS.size:
        return None
    parts = [_receive_exactly(parent, length) for length in LENGTHS.unpack(lengths)]
    return json.loads(parts[0]), parts[1]


def _receive_exactly(parent: socket.socket, length: int) -> bytes:
    """Return this many bytes. Raise ConnectionError if the socket is closed before."""
    parts = bytearray(length)
    room = memoryview(parts)
    while room:
        got = parent.recv_into(room)
        if not got:
            raise ConnectionResetError("the socket was closed in the middle of a message")
        room = room[got:]
    room.release()
    return bytes(parts)


if __name__ == "__main__":
    main()
