"""Timing of concurrent calls, and the memory in use on the GPU."""

import asyncio
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

GIB = 2**30
SAMPLE_S = 0.05


@dataclass(slots=True)
class MemoryPeak:
    """The largest memory in use on the GPU while it was watched, in GiB, above that in use before."""

    before: float
    peak: float = 0.0
    _done: threading.Event = field(default_factory=threading.Event)

    @property
    def gib(self) -> float:
        """The increase in GiB."""
        return max(0.0, self.peak - self.before)

    def watch(self) -> None:
        """Read the memory in use until told to stop. Runs on a thread."""
        while True:
            self.peak = max(self.peak, used_gib())
            if self._done.wait(SAMPLE_S):
                return

    def stop(self) -> None:
        """End the watch."""
        self._done.set()


def used_gib() -> float:
    """Return the memory in use on the first GPU, by all processes, in GiB; 0 without a GPU."""
    if not torch.cuda.is_available():
        return 0.0
    free, total = torch.cuda.mem_get_info(0)
    return (total - free) / GIB


@contextmanager
def memory_peak() -> Iterator[MemoryPeak]:
    """Watch the memory in use on the GPU."""
    peak = MemoryPeak(used_gib())
    thread = threading.Thread(target=peak.watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        peak.stop()
        thread.join()


async def concurrent(call: Callable[[int], Awaitable[object]], in_flight: int, seconds: float) -> dict[str, Any]:
    """Call again and again for a time, with a number of calls in flight, each at least once.

    Returns the latency and the throughput.
    """
    began, numbers, times = time.perf_counter(), iter(range(10**9)), list[float]()

    async def worker() -> None:
        while True:
            start = time.perf_counter()
            await call(next(numbers))
            times.append(time.perf_counter() - start)
            if time.perf_counter() - began > seconds:
                return

    await asyncio.gather(*(worker() for _ in range(in_flight)))
    took = time.perf_counter() - began
    return {"in_flight": in_flight, "calls": len(times), "per_s": len(times) / took} | percentiles(times)


def percentiles(times: list[float]) -> dict[str, float]:
    """Return the median and the nearest-rank 90th percentile of seconds, in milliseconds."""
    ordered = sorted(times)
    ninth = ordered[min(len(ordered) - 1, len(ordered) * 9 // 10)]
    return {"median_ms": 1000 * statistics.median(ordered), "p90_ms": 1000 * ninth}
