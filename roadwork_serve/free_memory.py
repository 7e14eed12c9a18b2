"""The memory that this process may still allocate."""

from collections.abc import Iterator
from pathlib import Path

GIB = 2**30


def free_ram(root: Path = Path("/")) -> int | None:
    """Return the bytes this process may still allocate, in a container its limit; None if not on Linux."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    return max(0, min([free, *_cgroup_memory(root)]))


def _cgroup_memory(root: Path) -> Iterator[int]:
    """Yield the free bytes under each memory limit of the surrounding control groups; file caches count as free."""
    groups = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        old = controllers == "memory"
        top = groups / "memory" if old else groups
        limit, usage = ("memory.limit_in_bytes", "memory.usage_in_bytes") if old else ("memory.max", "memory.current")
        here = top / path.lstrip("/")
        for group in (here, *here.parents):
            if group.is_relative_to(top):
                try:
                    stat = dict(each.split() for each in (group / "memory.stat").read_text().splitlines())
                    used = int((group / usage).read_text()) - int(stat.get("inactive_file", 0))
                    yield int((group / limit).read_text()) - used
                except (OSError, ValueError):  # "max": no limit, or not there
                    continue
