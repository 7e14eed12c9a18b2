"""A lock on a GPU while engines load.

vLLM with a share of the GPU (`gpu_memory_utilization`) measures the free memory, which must not change meanwhile: it
loads alone. Engines whose memory is fixed load at the same time. Experimental, not yet run on hardware.
"""

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roadwork_serve.profiles.engine_spec import EngineSpec

_LOG = logging.getLogger("ray.serve.roadwork.gpu")


@contextmanager
def gpu_load_lock(engine: EngineSpec, folder: Path | None = None) -> Iterator[None]:
    """Hold the lock of the GPU that this process sees; do nothing on a CPU.

    An engine that measures the free memory waits until no other engine loads, and the others wait for it. The kernel
    releases the lock of a process that is killed.
    """
    if engine.device != "cuda":
        yield
        return
    where = folder or Path(tempfile.gettempdir()) / f"roadwork-{os.getuid()}"
    where.mkdir(mode=0o700, exist_ok=True)
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(",", "-").replace("/", "-") or "none"
    kind = fcntl.LOCK_EX if engine.vllm.gpu_memory_utilization is not None else fcntl.LOCK_SH
    descriptor = os.open(where / f"gpu-{gpu}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            _LOG.info("Waiting for another engine to load on GPU %s.", gpu)
            fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)
