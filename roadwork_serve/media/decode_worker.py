"""A process that reads files for another, so that a hostile one harms nothing else. `Readers` starts it.

Over the socket that is its standard input come a file and its limits; what was read of it goes back. Either is a
message: the lengths of its two parts, JSON, and bytes. Nothing is pickled, so whoever took over this process could
tell the other lies, but run nothing there. It ends when the other hangs up.

Like all of `roadwork_serve.media` it does without pydantic and asyncio: it is up sooner and takes less memory.
"""

import json
import math
import resource
import signal
import socket
import struct
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from roadwork_serve.errors import MediaError
from roadwork_serve.media import Clip, Photo, read

if TYPE_CHECKING:
    from roadwork_serve.profiles.profile import MediaLimits

LENGTHS = struct.Struct(">II")  # of the JSON and of the bytes
READY: dict[str, Any] = {"kind": "ready"}
# Of memory, for a file at its limits. Measured for 8 bits a channel: WebP takes 20 bytes a pixel, H.264 that keeps 16
# frames 40.
_BYTES_A_PIXEL = 48
_COPIES = 4
_SPARE_BYTES = 512 * 2**20  # of which the libraries take 110 MiB, threads and their stacks some more


def main() -> None:
    """Read what is sent until the other end hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other, which then hangs up
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with socket.socket(fileno=0) as other:
        try:
            _send(other, READY, b"")
            while (message := _received(other)) is not None:
                limits = cast("MediaLimits", SimpleNamespace(**message[0]))
                began = time.monotonic()
                header, body = _told(message[1], limits)
                _send(other, header | {"took_s": time.monotonic() - began}, body)
        except ConnectionError:
            return


def _told(data: bytes, limits: "MediaLimits") -> tuple[dict[str, Any], bytes]:
    """What a file holds, or what is wrong with it, as a message. Bounded in memory, and in time: it kills itself."""
    _bound_memory(_SPARE_BYTES + _COPIES * limits.max_bytes + _BYTES_A_PIXEL * limits.max_pixels)
    signal.alarm(math.ceil(limits.max_decode_s) + 1)  # the other is quicker, while it lives
    try:
        media = read(data, limits)
    except MediaError as error:
        return {"kind": "error", "error": type(error).__name__, "message": str(error)}, b""
    finally:
        signal.alarm(0)
    told: dict[str, Any] = {"kind": media.kind, "width": media.width, "height": media.height}
    match media:
        case Photo():
            return told, media.thumb.tobytes()
        case Clip():
            told |= {"seconds": media.seconds, "frames": [(each.timestamp_s, len(each.jpeg)) for each in media.frames]}
            return told, b"".join([*media.images, np.ascontiguousarray(media.thumbs).data])


def _bound_memory(most: int) -> None:
    """Let this process have so many bytes of its own. Linux counts them all so, other systems but a part."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _send(other: socket.socket, header: dict[str, Any], body: bytes) -> None:
    told = json.dumps(header).encode()
    other.sendall(LENGTHS.pack(len(told), len(body)) + told)
    other.sendall(body)


def _received(other: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    """A message; None at the end."""
    lengths = other.recv(LENGTHS.size, socket.MSG_WAITALL)
    if len(lengths) < LENGTHS.size:
        return None
    parts = [_exactly(other, length) for length in LENGTHS.unpack(lengths)]
    return json.loads(parts[0]), parts[1]


def _exactly(other: socket.socket, length: int) -> bytes:
    """Raises ConnectionError when the other end hangs up before that."""
    parts = bytearray(length)
    room = memoryview(parts)
    while room:
        got = other.recv_into(room)
        if not got:
            raise ConnectionResetError("hung up in the middle of a message")
        room = room[got:]
    room.release()
    return bytes(parts)


if __name__ == "__main__":
    main()
