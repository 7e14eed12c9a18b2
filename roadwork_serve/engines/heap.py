"""Memory that a process keeps after its model has freed it.

The server's processes give freed memory back to the system soon (`ray_environment.RAY`). A model whose inputs change
their size allocates hundreds of MB anew in every run, and the system clears each page of them: an eighth of the time of
PP-OCR. Processes of such models keep more.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_LARGEST_BLOCK = 64 * 2**20  # bytes; PP-OCR's are above 32 MiB
_KEPT = 256 * 2**20


def keep_freed_memory() -> bool:
    """Let this process keep up to 256 MiB that it has freed. Returns False where malloc is not glibc's."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK), mallopt(_TRIM_THRESHOLD, _KEPT)])
