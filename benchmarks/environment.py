"""Where a benchmark ran, for its results."""

import os
import platform
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Environment:
    """date: in UTC, when the run began. cores: this process may use."""

    date: str
    command: str
    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    ray: str
    torch: str

    @classmethod
    def here(cls, command: str) -> "Environment":
        """This machine, now."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command,
            cpu=_cpu(),
            cores=len(os.sched_getaffinity(0)),
            memory_gib=round(memory / 2**30, 1),
            system=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
            ray=version("ray"),
            torch=version("torch"),
        )


def _cpu() -> str:
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return found.group(1) if found else platform.machine()
