"""A server of a command's own, on a free port and with a state folder that is removed with it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from roadwork_serve.errors import ModelError
from roadwork_serve.ports import free_port
from roadwork_serve.state_folder import VARIABLE

_START_S = 300.0
_STOP_S = 30.0
_PROGRAM = (sys.executable, "-c", "from roadwork_serve.cli.main import app; app()")


@contextmanager
def own_server(
    profile: str, program: tuple[str, ...] = _PROGRAM, start_s: float = _START_S, state: Path | None = None
) -> Iterator[str]:
    """Run `roadwork serve`, yield its URL once it is ready, and stop it.

    Args:
        profile: Profile to run.
        program: The command line `roadwork`.
        start_s: Time for it to become ready.
        state: Folder of its data. By default one that is removed with it.

    Raises:
        ModelError: It does not become ready; the message has the end of its output.
    """
    with tempfile.TemporaryDirectory(prefix="rw-", ignore_cleanup_errors=True) as folder:  # short: for Ray's sockets
        port, log = free_port(), Path(folder) / "log"
        url = f"http://127.0.0.1:{port}"
        kept = str(state or f"{folder}/state")
        words = ("serve", "--profile", profile, "--port", str(port), "--state", kept)
        environment = {**os.environ, VARIABLE: kept, "RAY_TMPDIR": folder, "RAY_ADDRESS": "local"}
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - this program itself, no shell
                [*program, *words], stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        try:
            _wait(url, process, log, start_s)
            yield url
        finally:
            _stop(process)


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path, start_s: float) -> None:
    give_up_at = time.monotonic() + start_s
    while time.monotonic() < give_up_at and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        time.sleep(0.25)
    end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:])
    raise ModelError(
        f"the server was not ready within {start_s:.0f} s; run `roadwork doctor`. Its output ends with:\n{end}"
    )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt a server as Ctrl-C would, then kill what is left of its session."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
