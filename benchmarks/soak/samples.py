"""Samples of what the processes of a server hold, and their course over a run."""

import asyncio
import statistics
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.server import session
from benchmarks.usage import Usage, title, usage

_REPLICA = "ray::ServeReplica:roadwork:"


@dataclass(frozen=True, slots=True)
class Sample:
    """Resources that the processes of a server hold at a moment, by role."""

    at_s: float
    roles: dict[str, Usage]

    @property
    def tree(self) -> Usage:
        """All processes together."""
        return sum(self.roles.values(), Usage())


@dataclass(frozen=True, slots=True)
class Course:
    """Medians of a figure over the first, the middle and the last tenth of a run."""

    start: float
    middle: float
    end: float

    @property
    def growth(self) -> float:
        """Growth from the middle to the end, relative to the middle."""
        return self.end / self.middle - 1 if self.middle else 0.0


async def watch(leader: int, every_s: float, samples: list[Sample]) -> None:
    """Append a sample of the session of a process again and again, until cancelled."""
    began_s = time.monotonic()
    while True:
        roles = await asyncio.to_thread(_roles, leader)
        samples.append(Sample(time.monotonic() - began_s, roles))
        await asyncio.sleep(every_s)


def course(values: Sequence[float]) -> Course:
    """Return the course of a figure that was sampled evenly."""
    tenth = max(1, len(values) // 10)
    middle = (len(values) - tenth) // 2
    parts = values[:tenth], values[middle : middle + tenth], values[-tenth:]
    return Course(*(statistics.median(part) for part in parts))


def role(command: str) -> str:
    """Return the role of a process, given its command line: the deployment, Ray's actor, or the program."""
    if command.startswith(_REPLICA):
        return command.removeprefix(_REPLICA).partition(".")[0]
    if command.startswith("ray::"):
        return command.removeprefix("ray::").partition(".")[0].partition(" ")[0]
    words = command.split()
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1]
    scripts = [Path(word).name for word in words if word.endswith(".py")]
    return scripts[0] if scripts else Path(words[0]).name if words else ""


def _roles(leader: int) -> dict[str, Usage]:
    found: dict[str, Usage] = {}
    for pid in session(leader):
        with suppress(OSError):  # it has ended
            name = role(title(pid))
            found[name] = found.get(name, Usage()) + usage(pid)
    return found


def names(samples: Iterable[Sample]) -> list[str]:
    """Return all roles, in the order of their first appearance."""
    return list(dict.fromkeys(name for sample in samples for name in sample.roles))
