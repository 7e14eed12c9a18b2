"""One engine after the other on a card: those that measure its free memory must not do so while others load."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_LOG = logging.getLogger("ray.serve.roadwork.card")


@contextmanager
def exclusive_gpu_load(device: str, folder: Path | None = None) -> Iterator[None]:
    """Wait until no other process of this user loads on the card that this process sees. A CPU needs no turns.

    The lock is the kernel's, so a process that is killed while it loads lets go of it.
    """
    if device != "cuda":
        yield
        return
    where = folder or Path(tempfile.gettempdir()) / f"roadwork-{os.getuid()}"
    where.mkdir(mode=0o700, exist_ok=True)
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(",", "-").replace("/", "-") or "none"
    lock = FileLock(where / f"card-{card}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _LOG.info("Another engine loads on card %s; this one waits for it.", card)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
