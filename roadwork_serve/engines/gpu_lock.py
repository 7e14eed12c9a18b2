"""A lock that lets one engine at a time load onto a GPU.

vLLM measures the free memory of the GPU, which must not change meanwhile. Experimental, not yet run on hardware.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_LOG = logging.getLogger("ray.serve.roadwork.gpu")


@contextmanager
def exclusive_gpu_load(device: str, folder: Path | None = None) -> Iterator[None]:
    """Hold the lock of the GPU that this process sees; do nothing on a CPU.

    The kernel releases the lock of a process that is killed.
    """
    if device != "cuda":
        yield
        return
    where = folder or Path(tempfile.gettempdir()) / f"roadwork-{os.getuid()}"
    where.mkdir(mode=0o700, exist_ok=True)
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(",", "-").replace("/", "-") or "none"
    lock = FileLock(where / f"gpu-{gpu}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _LOG.info("Waiting for another engine to load on GPU %s.", gpu)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
