"""The bare loop, the baseline for all servers: the same decoding and models in one process, batch by batch.

`python -m benchmarks.peers.bare MODEL THREADS` reads lines with a size and seconds, separated by a tab, and answers
each with a line of JSON.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from benchmarks.peers.cores import SERVER, count_cores, pinned
from benchmarks.peers.model import Pipeline
from benchmarks.peers.pictures import COUNT, SIZES, pictures
from benchmarks.peers.workloads import WORKLOADS


@dataclass(frozen=True, slots=True)
class LoopResult:
    """The figures of a run of the loop."""

    #: Images per second.
    per_s: float
    #: Share of the time spent on decoding.
    decoding_share: float
    #: Processor time per image.
    cpu_ms: float


class Loop:
    """The loop, in this process."""

    def __init__(self, model: str, threads: int) -> None:
        self._pipeline, self._batch = Pipeline(model, threads), WORKLOADS[model].batch

    def run(self, size: str, seconds: float) -> LoopResult:
        """Run for about this long, at least once over all photos."""
        bodies = pictures(size)
        batches = [bodies[start : start + self._batch] for start in range(0, COUNT, self._batch)]
        count, decoding_s, began, spent_s = 0, 0.0, time.monotonic(), time.process_time()
        while time.monotonic() < began + seconds or count < COUNT:
            batch = batches[count // self._batch % len(batches)]
            now = time.monotonic()
            thumbs = [self._pipeline.classifier.thumb(data) for data in batch]
            decoding_s += time.monotonic() - now
            self._pipeline.predict(batch, thumbs)
            count += len(batch)
        took_s = time.monotonic() - began
        return LoopResult(count / took_s, decoding_s / took_s, 1000 * (time.process_time() - spent_s) / count)


class LoopProcess:
    """The loop in its own process, which is idle between runs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, size: str, seconds: float) -> LoopResult:
        """Run the loop; see `Loop`. Raises RuntimeError if the process has ended."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        with suppress(BrokenPipeError):  # reported below
            print(f"{size}\t{seconds}", file=self._process.stdin, flush=True)
        if not (line := self._process.stdout.readline()):
            raise RuntimeError("the bare loop has ended")
        return LoopResult(**json.loads(line))


@contextmanager
def loop_process(model: str, threads: int) -> Iterator[LoopProcess]:
    """Yield a process for the loop, which is killed when the block ends."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.peers.bare", model, str(threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with pinned(WORKLOADS[model], SERVER):
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield LoopProcess(process)
        finally:
            process.kill()


def throughput_by_threads(model: str, seconds: float) -> dict[int, float]:
    """Return the images per second of the loop by number of threads."""
    throughputs: dict[int, float] = {}
    for count in range(1, count_cores(WORKLOADS[model]) + 1):
        with loop_process(model, count) as loop:
            throughputs[count] = loop.run(next(iter(SIZES)), seconds).per_s
    return throughputs


if __name__ == "__main__":
    loop = Loop(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        size, seconds = line.split("\t")
        print(json.dumps(asdict(loop.run(size, float(seconds)))), flush=True)
