"""A camera behind a URL, decoded in a confined process; see `stream_worker`."""

import asyncio
import socket
import subprocess
import threading
import time
from contextlib import suppress
from typing import Any

import httpx

from roadwork_serve.errors import MediaError
from roadwork_serve.media import sniff
from roadwork_serve.media.decode_response import parse_error
from roadwork_serve.media.worker_process import READY, receive, send, spawn
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.streams.camera import CameraLost, Picture

_WORKER = "roadwork_serve.streams.stream_worker"
_START_S = 60.0
_SILENCE_S = 20.0  # a camera that sends nothing for so long is lost
_CONNECT_S = 10.0
_MOST_LAG_S = 3600.0
_MAX_BODY = 32 * 2**20
_PIPE_BYTES = 2**17


class StreamCamera:
    """A stream over HTTP (MPEG-TS, MJPEG, FLV, fragmented MP4, Matroska) or RTSP. See `Camera`.

    Raises CameraLost if it cannot be opened.
    """

    every_counts = False

    def __init__(self, url: str, name: str, limits: MediaLimits) -> None:
        self._name, self._count, self._asked = name, 0, False
        #: None: the pictures of a stream that are not asked for do not count.
        self.dropped = 0
        self._problem = ""
        self._pump: _Pump | None = None
        self._process: subprocess.Popen[bytes] | None = None
        direct = url.startswith("rtsp")
        try:
            self._peer, theirs = socket.socketpair()
        except OSError as error:
            raise CameraLost(f"no process can be started for it: {error.strerror}") from None
        taken: socket.socket | None = None
        try:
            with theirs:
                if not direct:
                    ours, taken = socket.socketpair()
                    self._pump = _Pump(url, ours)
                self._process = spawn(_WORKER, theirs, taken)
            self._peer.settimeout(_START_S)
            send(self._peer, {"url": url if direct else None, "limits": limits.model_dump()})
            if self._pump is not None:
                self._pump.start()
            ready, _ = self._receive()
            if ready["kind"] != READY["kind"]:
                raise CameraLost("the reading process does not start")
            #: Protections that the system lacks.
            self.lacks = tuple(map(str, ready["lacks"]))
        except OSError as error:
            self.close()
            raise CameraLost(f"no process can be started for it: {error.strerror or error}") from None
        except BaseException:
            self.close()
            raise
        finally:
            if taken is not None:
                taken.close()

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
                raise CameraLost(self._why(f"no picture for {_SILENCE_S:g} s")) from None
            return None
        except OSError as error:
            raise CameraLost(self._why(str(error))) from None
        self._peer.settimeout(_SILENCE_S)
        header, jpeg = self._receive()
        if header["kind"] != "frame":
            raise CameraLost(self._why("the stream ended"))
        self._asked, self._count = False, self._count + 1
        try:
            lag_s = float(header["lag_s"])
            if not 0 <= lag_s <= _MOST_LAG_S or sniff(jpeg[:16]) != "image/jpeg":
                raise ValueError("no picture of its own")
        except (KeyError, TypeError, ValueError, MediaError):
            raise CameraLost("the stream crashes the decoder") from None
        return Picture(time.time() - lag_s, f"{self._name} {self._count}.jpg", jpeg, lag_s)

    def close(self) -> None:
        """End the process and the connection."""
        if self._process is not None:
            self._process.kill()
        self._peer.close()
        if self._pump is not None:
            self._pump.stop()
        if self._process is not None:
            self._process.wait()

    def _why(self, otherwise: str) -> str:
        """Return what the connection met, which is why the process has no pictures."""
        return (self._pump and self._pump.problem) or otherwise

    def _receive(self) -> tuple[dict[str, Any], bytes]:
        try:
            message = receive(self._peer, _MAX_BODY)
            if message is None:
                raise ConnectionResetError("the reading process ended")
            if error := parse_error(message[0]):
                raise CameraLost(self._why(str(error)))
            return message
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CameraLost(self._why(f"the stream cannot be read ({error})")) from None


class _Pump:
    """Passes the bytes of an HTTP response on, in a thread of its own that can be stopped at any time."""

    def __init__(self, url: str, pipe: socket.socket) -> None:
        self._url, self._pipe = url, pipe
        pipe.setblocking(False)
        pipe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIPE_BYTES)
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        #: Why no bytes come.
        self.problem = ""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the connection and the thread."""
        if self._thread.ident is None:
            self._loop.close()
        else:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()
        self._pipe.close()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._until_stopped())
        finally:
            self._loop.close()
            with suppress(OSError):
                self._pipe.shutdown(socket.SHUT_WR)  # the process sees the end of the stream

    async def _until_stopped(self) -> None:
        fetching, stopped = asyncio.ensure_future(self._fetch()), asyncio.ensure_future(self._stopped.wait())
        await asyncio.wait((fetching, stopped), return_when=asyncio.FIRST_COMPLETED)
        for task in (fetching, stopped):
            task.cancel()
        await asyncio.gather(fetching, stopped, return_exceptions=True)

    async def _fetch(self) -> None:
        timeout = httpx.Timeout(_SILENCE_S, connect=_CONNECT_S)
        headers = {"Accept-Encoding": "identity"}
        try:
            async with (
                httpx.AsyncClient(timeout=timeout, follow_redirects=True, headers=headers) as client,
                client.stream("GET", self._url) as response,
            ):
                coding = response.headers.get("content-encoding", "identity")
                if response.is_error:
                    self.problem = f"the camera answers {response.status_code}"
                elif coding != "identity":
                    self.problem = f"the camera sends a compressed response ({coding[:20]})"
                else:
                    async for chunk in response.aiter_raw():
                        await self._loop.sock_sendall(self._pipe, chunk)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self.problem = f"the camera cannot be reached ({type(error).__name__})"
        except OSError:
            return  # the process ended
