"""One engine after the other on a card: those that measure its free memory must not do so while others load."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


@contextmanager
def alone_on_card(device: str, folder: Path | None = None) -> Iterator[None]:
    """Wait until no other process of this user loads on the card that this process sees. A CPU needs no turns.

    The lock is the kernel's, so a process that is killed while it loads lets go of it.
    """
    if device != "cuda":
        yield
        return
    where = folder or Path(tempfile.gettempdir()) / f"roadwork-{os.getuid()}"
    where.mkdir(mode=0o700, exist_ok=True)
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(",", "-").replace("/", "-") or "none"
    with FileLock(where / f"card-{card}.lock"):
        yield
