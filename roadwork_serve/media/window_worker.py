"""A process that cuts a long clip into windows for its parent. `window_process` starts it, for one clip.

Its standard input is a socket to the parent, and its standard output the clip, opened for reading. It is confined
before it reads the clip: see `confinement`. Messages are those of `worker_process`.
"""

import mmap
import resource
import signal
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import av.subtitles.codeccontext
import av.subtitles.stream  # noqa: F401

from roadwork_serve.errors import MediaError
from roadwork_serve.media.confinement import confine
from roadwork_serve.media.windows import read_windows
from roadwork_serve.media.worker_process import receive, send

if TYPE_CHECKING:
    from roadwork_serve.profiles.media_limits import MediaLimits

_BASE_MIB = 512
_COPIES = 6  # of a window: its packets, the file it is written to, and the message
_CLIP = 1  # the descriptor


def main() -> None:
    """Send each window when it is cut, then the end or an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    file = open(_CLIP, "rb", closefd=False)
    data = mmap.mmap(_CLIP, 0, access=mmap.ACCESS_READ)
    with socket.socket(fileno=0) as parent:
        try:
            lacks = confine()
            message = receive(parent)
            if message is None:
                return
            limits = cast("MediaLimits", SimpleNamespace(**message[0]["limits"]))
            memory = (_BASE_MIB << 20) + _COPIES * limits.max_bytes
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
            try:
                for window in read_windows(file, data, limits, message[0]["max_seconds"]):
                    times = {"start_s": window.start_s, "end_s": window.end_s}
                    send(parent, {"kind": "window", **times, "complete": window.complete}, window.data)
            except MediaError as error:
                send(parent, {"kind": "error", "error": type(error).__name__, "message": str(error)})
            else:
                send(parent, {"kind": "end", "lacks": lacks})
        except ConnectionError:
            return


if __name__ == "__main__":
    main()
