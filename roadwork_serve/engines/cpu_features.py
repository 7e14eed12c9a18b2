"""Features of the CPU that decide which graph an engine runs."""

import platform
from functools import cache
from pathlib import Path

#: Flags of Linux for 8-bit dot products that add in 32 bits.
_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8"}
_CPU_INFO = Path("/proc/cpuinfo")


@cache
def has_int8_dot_products() -> bool:
    """Return whether 8-bit graphs are exact and fast here: on x86-64 Linux with VNNI, where they were measured."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return not _DOT_PRODUCTS.isdisjoint(flags)
