"""A camera behind a URL, decoded in a confined process; see `stream_worker`."""

import socket
import subprocess
import threading
import time
from contextlib import suppress
from typing import Any

import httpx

from roadwork_serve.errors import MediaError
from roadwork_serve.media.decode_response import parse_error
from roadwork_serve.media.worker_process import READY, receive, send, spawn
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.streams.camera import CameraLost, Picture

_WORKER = "roadwork_serve.streams.stream_worker"
_START_S = 60.0
_SILENCE_S = 20.0  # a camera that sends nothing for so long is lost
_CONNECT_S = 10.0
_MAX_BODY = 32 * 2**20
_PIPE_BYTES = 2**17


class StreamCamera:
    """A stream over HTTP (MPEG-TS, MJPEG, FLV, fragmented MP4, Matroska) or RTSP. See `Camera`.

    Raises CameraLost if it cannot be opened.
    """

    def __init__(self, url: str, name: str, limits: MediaLimits) -> None:
        self._name, self._count, self._asked = name, 0, False
        #: None: the pictures of a stream that are not asked for do not count.
        self.dropped = self.waiting = 0
        self._problem = ""
        self._closed = False
        self._pump: threading.Thread | None = None
        self._bytes: socket.socket | None = None
        direct = url.startswith("rtsp")
        self._peer, theirs = socket.socketpair()
        taken: socket.socket | None = None
        try:
            if not direct:
                self._bytes, taken = socket.socketpair()
                self._bytes.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIPE_BYTES)
            self._process: subprocess.Popen[bytes] = spawn(_WORKER, theirs, taken)
        finally:
            theirs.close()
            if taken is not None:
                taken.close()
        try:
            self._peer.settimeout(_START_S)
            send(self._peer, {"url": url if direct else None, "limits": limits.model_dump()})
            if self._bytes is not None:
                self._pump = threading.Thread(target=self._fetch, args=(url, self._bytes), name="stream", daemon=True)
                self._pump.start()
            ready = self._receive()
            if ready[0].get("kind") != READY["kind"]:
                raise CameraLost("the reading process does not start")
            #: Protections that the system lacks.
            self.lacks = tuple(map(str, ready[0]["lacks"]))
        except BaseException:
            self.close()
            raise

    def newest(self, wait_s: float) -> Picture | None:
        """Return the newest picture; None if none comes in time. Raises CameraLost."""
        if not self._asked:
            with suppress(OSError):  # it ended; its last message says why
                send(self._peer, {"kind": "next"})
            self._asked, self._since_s = True, time.monotonic()
        self._peer.settimeout(wait_s)
        try:
            self._peer.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            if time.monotonic() - self._since_s > _SILENCE_S:
                raise CameraLost(self._problem or f"no picture for {_SILENCE_S:g} s") from None
            return None
        except OSError as error:
            raise CameraLost(self._problem or str(error)) from None
        self._peer.settimeout(_SILENCE_S)
        header, jpeg = self._receive()
        if header["kind"] != "frame":
            raise CameraLost(self._problem or "the stream ended")
        lag_s = float(header["lag_s"])
        self._asked, self._count = False, self._count + 1
        at_s = time.time() - (lag_s if 0 <= lag_s < 3600 else 0.0)
        return Picture(at_s, f"{self._name} {self._count}.jpg", jpeg, max(0.0, lag_s))

    def close(self) -> None:
        """End the process and the connection."""
        self._closed = True
        self._process.kill()
        self._peer.close()
        if self._bytes is not None:
            with suppress(OSError):
                self._bytes.shutdown(socket.SHUT_RDWR)
            self._bytes.close()
        self._process.wait()
        if self._pump is not None:
            self._pump.join(_CONNECT_S)

    def _receive(self) -> tuple[dict[str, Any], bytes]:
        try:
            message = receive(self._peer, _MAX_BODY)
            if message is None:
                raise ConnectionResetError("the reading process ended")
            if error := parse_error(message[0]):
                raise CameraLost(self._problem or str(error))
            return message
        except (OSError, ValueError, KeyError, TypeError, MediaError) as error:
            raise CameraLost(self._problem or f"the stream cannot be read ({error})") from None

    def _fetch(self, url: str, pipe: socket.socket) -> None:
        """Pass the bytes of the stream on, until it ends or the camera is closed."""
        try:
            timeout = httpx.Timeout(_SILENCE_S, connect=_CONNECT_S)
            with httpx.stream("GET", url, timeout=timeout, follow_redirects=True) as response:
                if response.is_error:
                    self._problem = f"the camera answers {response.status_code}"
                for chunk in response.iter_bytes() if response.is_success else ():
                    pipe.sendall(chunk)
                    if self._closed:
                        return
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._problem = f"the camera cannot be reached ({type(error).__name__})"
        except OSError:  # the process ended, or the camera was closed
            return
        with suppress(OSError):
            pipe.shutdown(socket.SHUT_WR)  # the process sees the end of the stream
