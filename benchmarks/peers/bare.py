"""The bare loop that is the measure of servers: the same decoding and models in one process, a batch at a time.

As `python -m benchmarks.peers.bare MODEL THREADS` it runs for each line that it reads, a size and seconds with a tab
between them, and answers with a line of JSON.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from benchmarks.peers.model import WORKS, Whole
from benchmarks.peers.pictures import COUNT, SIZES, pictures


@dataclass(frozen=True, slots=True)
class Pace:
    """per_s: images a second. decoding: its share of the time. cpu_ms: of an image."""

    per_s: float
    decoding: float
    cpu_ms: float


class Loop:
    """The loop in this process."""

    def __init__(self, model: str, threads: int) -> None:
        self._whole, self._batch = Whole(model, threads), WORKS[model].batch

    def run(self, size: str, seconds: float) -> Pace:
        """Run for about so long, at least once through all photos."""
        bodies = pictures(size)
        parts = [bodies[start : start + self._batch] for start in range(0, COUNT, self._batch)]
        count, decoding_s, began, spent_s = 0, 0.0, time.monotonic(), time.process_time()
        while time.monotonic() < began + seconds or count < COUNT:
            part = parts[count // self._batch % len(parts)]
            now = time.monotonic()
            thumbs = [self._whole.judge.thumb(data) for data in part]
            decoding_s += time.monotonic() - now
            self._whole.answers(part, thumbs)
            count += len(part)
        took_s = time.monotonic() - began
        return Pace(count / took_s, decoding_s / took_s, 1000 * (time.process_time() - spent_s) / count)


class Apart:
    """The loop in a process of its own, which rests between runs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, size: str, seconds: float) -> Pace:
        """See `Loop`. Raises RuntimeError when the process has ended."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("it has no pipes")
        with suppress(BrokenPipeError):  # told of below
            print(f"{size}\t{seconds}", file=self._process.stdin, flush=True)
        if not (line := self._process.stdout.readline()):
            raise RuntimeError("the bare loop has ended")
        return Pace(**json.loads(line))


@contextmanager
def apart(model: str, threads: int) -> Iterator[Apart]:
    """Yield a process of its own for the loop, until the block ends."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.peers.bare", model, str(threads)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Apart(process)
        finally:
            process.kill()


def by_threads(model: str, seconds: float) -> dict[int, float]:
    """Images a second of the loop by its number of threads."""
    found: dict[int, float] = {}
    for count in range(1, len(os.sched_getaffinity(0)) + 1):
        with apart(model, count) as loop:
            found[count] = loop.run(next(iter(SIZES)), seconds).per_s
    return found


if __name__ == "__main__":
    loop = Loop(sys.argv[1], int(sys.argv[2]))
    for order in sys.stdin:
        size, seconds = order.split("\t")
        print(json.dumps(asdict(loop.run(size, float(seconds)))), flush=True)
