"""A server is stopped with all that it started."""

import subprocess
import sys
from pathlib import Path

from benchmarks.server import session, status, stop

# Starts a child in a session of its own, says which, and ends by Ctrl-C without it.
PARENT = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, lambda *_: sys.exit())
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
signal.pause()
"""


def test_a_process_in_a_session_of_its_own_is_counted_and_stopped_with_the_one_that_started_it() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert set(session(parent.pid)) == {parent.pid, child}
        assert status(child)[3] != status(parent.pid)[3]
        stop(parent)
    assert parent.returncode == 0, "it was asked before it was killed"
    assert not Path(f"/proc/{child}").exists() or status(child)[0] == "Z"
    assert session(parent.pid) == {}
