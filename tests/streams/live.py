"""Cameras of the tests and benchmarks: live streams over HTTP and RTSP whose picture is a function of time."""

import asyncio
import io
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image

FPS = 10
SIZE = (160, 120)
Look = Callable[[float], int | np.ndarray]  # grey, or RGB, by time.time()


class _Growing(io.RawIOBase):
    """Passes on what is written."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]
        self._write(part)
        return len(part)


def picture(look: int | np.ndarray) -> np.ndarray:
    return np.full((SIZE[1], SIZE[0], 3), look, np.uint8) if isinstance(look, int) else look


def transport_stream(write: Callable[[bytes], object], look: Look, running: Callable[[], bool]) -> None:
    """Write a live MPEG-TS until `running` is false or the reader is gone."""
    with (
        suppress(OSError, FFmpegError),
        av.open(_Growing(write), "w", format="mpegts", options={"flush_packets": "1"}) as output,
    ):
        stream = output.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "tune": "zerolatency"})
        stream.height, stream.width, _ = picture(look(time.time())).shape
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = FPS
        began_s, count = time.monotonic(), 0
        while running():
            frame = av.VideoFrame.from_ndarray(picture(look(time.time())), format="rgb24")
            frame.pts = count
            output.mux(stream.encode(frame))
            count += 1
            time.sleep(max(0.0, began_s + count / FPS - time.monotonic()))


def motion_jpeg(write: Callable[[bytes], object], look: Look, running: Callable[[], bool]) -> None:
    with suppress(OSError):
        while running():
            file = io.BytesIO()
            Image.fromarray(picture(look(time.time()))).save(file, "JPEG")
            head = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {file.tell()}\r\n\r\n"
            write(head.encode() + file.getvalue() + b"\r\n")
            time.sleep(1 / FPS)


class HttpCamera:
    """A camera that serves any number of clients. `cut` ends all streams."""

    def __init__(self, look: Look, kind: str = "mpegts", status: int = 200) -> None:
        self.cuts = self.requests = 0
        camera = self
        source = {"mpegts": transport_stream, "mjpeg": motion_jpeg}.get(kind)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.requests += 1
                cut = camera.cuts
                self.send_response(status)
                kinds = {"mpegts": "video/mp2t", "mjpeg": "multipart/x-mixed-replace; boundary=b"}
                self.send_header("Content-Type", kinds.get(kind, "text/html"))
                self.end_headers()
                if source is None:
                    self.wfile.write(b"<html>no video</html>" * 2000)
                else:
                    source(self.wfile.write, look, lambda: camera.cuts == cut)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://user:secret@127.0.0.1:{self._server.server_address[1]}/live"

    def cut(self) -> None:
        self.cuts += 1

    def __enter__(self) -> "HttpCamera":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def rtsp_camera(look: Look) -> Iterator[str]:
    """Yield the URL of a camera that sends MPEG-TS in RTP on the connection of RTSP (RFC 2326, 10.12; RFC 2250)."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=_speak_rtsp, args=(client, look, stopped), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"rtsp://127.0.0.1:{listener.getsockname()[1]}/live"
    finally:
        stopped.set()
        listener.close()


def _speak_rtsp(client: socket.socket, look: Look, stopped: threading.Event) -> None:
    sdp = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=live\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
    with suppress(OSError), client, client.makefile("rb") as lines:
        while line := lines.readline():
            method, headers = line.split()[0], {}
            while (header := lines.readline().strip()) and b":" in header:
                name, _, value = header.partition(b":")
                headers[name.lower()] = value.strip()
            more, body = b"", b""
            if method == b"DESCRIBE":
                more, body = b"Content-Type: application/sdp\r\nContent-Length: %d\r\n" % len(sdp), sdp
            elif method == b"SETUP":
                more = b"Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
            elif method == b"OPTIONS":
                more = b"Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            client.sendall(b"RTSP/1.0 200 OK\r\nCSeq: %s\r\n%s\r\n%s" % (headers[b"cseq"], more, body))
            if method == b"PLAY":
                _send_rtp(client, look, stopped)
                return


def _send_rtp(client: socket.socket, look: Look, stopped: threading.Event) -> None:
    waiting, number = bytearray(), 0

    def write(data: bytes) -> None:
        nonlocal number
        waiting.extend(data)
        while len(waiting) >= 7 * 188:
            stamp = int(time.monotonic() * 90_000) & 0xFFFFFFFF
            packet = struct.pack(">BBHII", 0x80, 33, number & 0xFFFF, stamp, 1) + waiting[: 7 * 188]
            client.sendall(b"$\0" + struct.pack(">H", len(packet)) + packet)
            number += 1
            del waiting[: 7 * 188]

    transport_stream(write, look, lambda: not stopped.is_set())


async def until(holds: Callable[[], object]) -> None:
    """Wait until a condition holds. Fails after a minute."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - of what other threads do
            await asyncio.sleep(0.02)
