"""Denormal floats taken for zero while a model runs.

Some trained weights make products below 1e-38, which x86 computes up to a hundred times slower than others;
PP-OCRv6's text detection takes 2.6 times as long with them as without, for the very same answer. ONNX Runtime
can be told to flush them, but obeys in its own threads and the one that made the process's first session only
(github.com/microsoft/onnxruntime/pull/5391); so the calling thread is set here.
"""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# glibc's fenv_t on x86-64: 28 bytes of x87 state, then MXCSR. Bits 15 and 6 of MXCSR are flush-to-zero and
# denormals-are-zero (Intel 64 and IA-32 manual, volume 1, 10.2.3).
_WORDS, _MXCSR, _FLUSH = 8, 7, 1 << 15 | 1 << 6


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Denormals are zero in this thread until the block ends; elsewhere than on x86-64 Linux nothing changes."""
    libm = _libm()
    if libm is None:
        yield
        return
    before, within = (ctypes.c_uint32 * _WORDS)(), (ctypes.c_uint32 * _WORDS)()
    libm.fegetenv(before)
    libm.fegetenv(within)
    within[_MXCSR] |= _FLUSH
    libm.fesetenv(within)
    try:
        yield
    finally:
        libm.fesetenv(before)


@cache
def _libm() -> ctypes.CDLL | None:
    if platform.system() != "Linux" or platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL("libm.so.6")
