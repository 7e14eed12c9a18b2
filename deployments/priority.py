"""The CPU priority of processes and threads."""

import contextlib
import os

_THREADS = "/proc/self/task"


def lower_priority(niceness: int) -> None:
    """Lower the CPU priority of this process, so that others, such as the ingress, go first where cores are short.

    This affects the current thread, threads that it starts from now on, and those it started after an earlier call.
    Linux sets priorities by thread: Ray's own threads are not affected.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    for thread in {0} | ({int(name) for name in os.listdir(_THREADS)} if before and os.path.isdir(_THREADS) else set()):
        with contextlib.suppress(OSError):  # it has ended
            if before <= os.getpriority(os.PRIO_PROCESS, thread) < niceness:
                os.setpriority(os.PRIO_PROCESS, thread, niceness)
