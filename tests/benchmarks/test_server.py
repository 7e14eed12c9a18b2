"""A server is stopped with all that it started."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.server import session, status, stop

# Starts a child in a session of its own, says which, and ends by Ctrl-C without it.
PARENT = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, lambda *_: sys.exit())
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
signal.pause()
"""


# Ends what it has begun when it is told to.
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
    ("patience_s", "code", "why"), [(60.0, 0, "it was asked"), (0.0, -signal.SIGKILL, "it was not")]
)
def test_a_process_in_a_session_of_its_own_is_counted_and_stopped_with_the_one_that_started_it(
    patience_s: float, code: int, why: str
) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert set(session(parent.pid)) == {parent.pid, child}
        assert status(child)[3] != status(parent.pid)[3]
        stop(parent, patience_s)
    assert parent.returncode == code, why
    assert not Path(f"/proc/{child}").exists() or status(child)[0] == "Z"
    assert session(parent.pid) == {}


def test_a_measurement_that_is_told_to_end_ends_what_it_has_begun() -> None:
    with subprocess.Popen([sys.executable, "-c", ORDERLY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        process.terminate()
        assert process.stdout.read() == "ended\n"
    assert process.returncode == 128 + signal.SIGTERM
