"""The cores of a workload: all of them, or one for the server or the bare loop and another for the client."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.peers.workloads import Workload

SERVER, CLIENT = 0, 1  # places among the cores that this process may use


def count_cores(workload: Workload) -> int:
    """Return the number of cores that a server, or the bare loop, may use."""
    return 1 if workload.one_core else len(os.sched_getaffinity(0))


@contextmanager
def pinned(workload: Workload, place: int) -> Iterator[None]:
    """Keep this thread, and the processes that it starts, on one core, if the workload is for one."""
    cores = os.sched_getaffinity(0)
    if workload.one_core:
        os.sched_setaffinity(0, {sorted(cores)[place]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
