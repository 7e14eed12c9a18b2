"""The CPU priority of threads."""

import subprocess
import sys


def test_it_lowers_the_priority_of_its_own_threads_only():
    code = """
import os, threading
from deployments.priority import lower_priority
def held():
    event = threading.Event()
    thread = threading.Thread(target=event.wait, daemon=True)
    thread.start()
    return thread
of = lambda thread: os.getpriority(os.PRIO_PROCESS, thread.native_id)
older = held()
lower_priority(5)
mine = held()
print(of(older), of(mine), os.getpriority(os.PRIO_PROCESS, 0))
lower_priority(10)
print(of(older), of(mine), of(held()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "5", "5", "0", "10", "10"]
