"""A reading process that tries to open a file of its own."""

import os
from typing import Any

from roadwork_serve.drives import recording_worker as worker
from roadwork_serve.errors import BrokenMedia


def curious(*_: Any) -> bytes:
    try:
        os.open("/etc/passwd", os.O_RDONLY)
    except OSError as error:
        raise BrokenMedia(f"{type(error).__name__}: refused") from None
    return b"read it"


if __name__ == "__main__":
    worker._frame = curious
    worker.main()
