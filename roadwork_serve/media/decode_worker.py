"""A process that decodes files for its parent, so that a malicious file harms nothing else. `DecodePool` starts it.

It receives a file, its limits and the task over the socket at its standard input, and sends back the result. It is
confined before the first file: see `confinement`. It ends when the parent closes the socket.

Like all of `roadwork_serve.media` it imports neither pydantic nor asyncio, to start faster and take less memory.
"""

import math
import signal
import socket
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
from roadwork_serve.media.worker_process import READY, limit_memory, receive, send

if TYPE_CHECKING:
    from roadwork_serve.profiles.media_limits import MediaLimits

Task = Literal["read", "page"]


def main() -> None:
    """Decode files until the parent closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the socket
    Image.preinit()
    with socket.socket(fileno=0) as parent:
        try:
            send(parent, {**READY, "lacks": confine()})
            while (message := receive(parent)) is not None:
                limits = cast("MediaLimits", SimpleNamespace(**message[0]["limits"]))
                limit_memory(message[0]["memory_mib"], message[0]["most_mib"])
                began = time.monotonic()
                header, body = _decode(message[1], limits, message[0]["task"])
                send(parent, header | {"took_s": time.monotonic() - began}, body)
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
                "incomplete": media.incomplete,
                "frames": [(each.timestamp_s, len(each.jpeg)) for each in media.frames],
            }
            return header, b"".join([*media.images, np.ascontiguousarray(media.thumbs).data])


if __name__ == "__main__":
    main()
