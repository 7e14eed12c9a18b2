"""A decoding process with weaknesses, triggered by files that begin like a JPEG followed by a keyword."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from roadwork_serve.media import Clip, Photo, photo
from roadwork_serve.media import decode_worker as reader
from tests import corpus

JPEG = b"\xff\xd8\xff"
HANGS, DIES, EATS, LIES, BURNS = (JPEG + word for word in (b"hang ", b"die", b"eat", b"lie ", b"burn "))

read, decode, decoded = reader.read, reader._decode, photo._decoded


def weak_read(data: bytes, limits: Any) -> Photo | Clip:
    match data:
        case _ if data.startswith(HANGS):
            Path(data.removeprefix(HANGS).decode()).touch()  # to say that it has begun
            signal.pause()
        case _ if data.startswith(BURNS):
            begun = Path(data.removeprefix(BURNS).decode())
            begun.touch()
            while not begun.with_suffix(".end").exists():
                sum(range(10_000))
            return read(corpus.encoded(corpus.picture()), limits)
        case _ if data == DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        case _ if data == EATS:
            photo._open_checked = lambda *_: bytearray(2**30)  # type: ignore[assignment,return-value]
    return read(data, limits)


def lying(data: bytes, limits: Any, task: Any) -> tuple[dict[str, Any], bytes]:
    if not data.startswith(LIES):
        return decode(data, limits, task)
    header, size = json.loads(data.removeprefix(LIES))
    return header, bytes(size)


if __name__ == "__main__":
    reader.read, reader._decode = weak_read, lying
    reader.confine = list  # type: ignore[assignment] - it touches files
    reader.main()
