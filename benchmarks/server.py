"""A server of one's own on a free loopback port, with a Ray of its own, gone when the block ends."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml

from roadwork_serve.cli import RAY

ROOT = Path(__file__).parents[1]
START_S = 240.0
STOP_S = 60.0


@contextmanager
def own_server(log: Path, profile: str = "auto", start_s: float = START_S) -> Iterator[str]:
    """Start what serve_config.yaml describes and yield its URL once it is ready.

    log: where its output goes. profile: by name or path. start_s: to get ready in.
    Raises RuntimeError with the end of the log when it does not get ready.
    """
    port = _free_port()
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["http_options"]["port"] = port
    config["applications"][0]["args"]["profile"] = profile
    folder = Path(tempfile.mkdtemp(prefix="rw-"))  # Ray's socket paths must be short
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    environment = {
        **os.environ,
        **RAY,
        "RAY_ADDRESS": "local",  # never join a Ray that somebody else runs
        "RAY_TMPDIR": str(folder),
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a dozen processes would each compile Ray anew
    log.parent.mkdir(parents=True, exist_ok=True)
    serve = Path(sys.executable).with_name("serve")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [serve, "run", str(folder / "serve.yaml")],
            cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, log, start_s)
            yield url
        finally:
            _stop(process)
            shutil.rmtree(folder, ignore_errors=True)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path, start_s: float) -> None:
    give_up_at = time.monotonic() + start_s
    while time.monotonic() < give_up_at and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.25)
    end = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
    raise RuntimeError(f"The server was not ready within {start_s:.0f} s. The end of {log}:\n{end}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end as Ctrl-C would, then make sure that nothing of its session is left."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
