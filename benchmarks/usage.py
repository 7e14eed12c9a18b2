"""Memory, descriptors and threads of processes, read from /proc."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources that a process, or several together, hold at a moment."""

    processes: int = 0
    #: Proportional set size: a page that several processes share counts once in their sum.
    memory_mib: float = 0.0
    descriptors: int = 0
    threads: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.processes + other.processes,
            self.memory_mib + other.memory_mib,
            self.descriptors + other.descriptors,
            self.threads + other.threads,
        )


def usage(pid: int) -> Usage:
    """Return what a process holds. Raises OSError if it has ended, or belongs to another user."""
    descriptors, threads = (len(os.listdir(f"/proc/{pid}/{folder}")) for folder in ("fd", "task"))
    return Usage(1, memory_mib(pid), descriptors, threads)


def memory_mib(pid: int) -> float:
    """Return the proportional set size of a process. Raises OSError if it has ended, or belongs to another user."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def title(pid: int) -> str:
    """Return the command line of a process. Raises OSError if it has ended."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return command.replace(b"\0", b" ").decode(errors="replace").strip()
