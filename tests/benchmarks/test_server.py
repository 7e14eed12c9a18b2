"""Tests of stopping a server with all its processes."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.server import session, status, stop

# Starts a child in its own session, prints its pid, and exits on Ctrl-C without stopping it.
PARENT = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, lambda *_: sys.exit())
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
signal.pause()
"""


# Cleans up on SIGTERM.
ORDERLY = """
import time
from benchmarks.server import end_in_order
end_in_order()
try:
    print("began", flush=True)
    time.sleep(600)
finally:
    print("ended", flush=True)
"""


@pytest.mark.parametrize(
    ("patience_s", "code", "reason"), [(60.0, 0, "it was interrupted"), (0.0, -signal.SIGKILL, "it was killed")]
)
def test_a_child_in_its_own_session_is_found_and_stopped_with_its_parent(
    patience_s: float, code: int, reason: str
) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert set(session(parent.pid)) == {parent.pid, child}
        assert status(child)[3] != status(parent.pid)[3]
        stop(parent, patience_s)
    assert parent.returncode == code, reason
    assert not Path(f"/proc/{child}").exists() or status(child)[0] == "Z"
    assert session(parent.pid) == {}


def test_an_interrupted_stop_leaves_no_process() -> None:
    def time_is_up(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGUSR1, time_is_up)
    program = PARENT.replace("lambda *_: sys.exit()", "signal.SIG_IGN")
    try:
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True
        ) as parent:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            with pytest.raises(TimeoutError):
                stop(parent)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert parent.returncode == -signal.SIGKILL
    assert not Path(f"/proc/{child}").exists() or status(child)[0] == "Z"


def test_a_terminated_benchmark_cleans_up() -> None:
    with subprocess.Popen([sys.executable, "-c", ORDERLY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        process.terminate()
        assert process.stdout.read() == "ended\n"
    assert process.returncode == 128 + signal.SIGTERM
