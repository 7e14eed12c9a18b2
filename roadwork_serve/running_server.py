"""This user's running server: `roadwork serve` keeps its URL and the address of its Ray in the state folder."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from roadwork_serve.errors import ConfigError
from roadwork_serve.ray_environment import named_cluster
from roadwork_serve.state_folder import VARIABLE, make_private, state_folder

_FILES = ("address", "url")  # in the order of RunningServer
_READ_S = 1.0  # time for others to finish reading; they hold the lock for an instant


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that runs."""

    #: Address of its Ray.
    ray: str
    #: Its HTTP address, such as http://127.0.0.1:8000.
    url: str


def running_server(state: Path) -> RunningServer | None:
    """Return the server that runs with the state folder; None if there is none, or it is only starting."""
    folder = state / "ray"
    with suppress(OSError):
        try:
            with _locked(folder, fcntl.LOCK_SH, 0.0):
                return None  # an address that is there was left by a server that was killed
        except BlockingIOError:
            return RunningServer(*((folder / name).read_text(encoding="ascii") for name in _FILES))
    return None


def cluster_address(environment: Mapping[str, str] = os.environ) -> str:
    """Return the address in RAY_ADDRESS, or else that of this user's running server. No other cluster is looked for.

    Raises:
        ConfigError: There is neither.
    """
    if named := named_cluster(environment):
        return named
    state = state_folder(environment)
    if (server := running_server(state)) is not None:
        return server.ray
    raise ConfigError(
        f"no server of yours is running with the state folder {state}. "
        "Start one with `make serve`, or name its cluster in RAY_ADDRESS"
    )


@contextmanager
def publishing(state: Path) -> Iterator[Callable[[RunningServer], None]]:
    """Reserve the state folder for one server, and yield a function that publishes its addresses.

    They are removed at the end. If this process is killed, the lock on the folder ends with it.

    Raises:
        ConfigError: Another server uses the state folder.
    """
    folder = make_private(state / "ray")
    files = [folder / name for name in _FILES]

    def publish(server: RunningServer) -> None:
        for file, text in zip(files, (server.ray, server.url), strict=True):
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as output:
                output.write(text)

    def remove() -> None:
        for file in files:
            file.unlink(missing_ok=True)

    try:
        with _locked(folder, fcntl.LOCK_EX, _READ_S):
            remove()  # those of a server that was killed
            try:
                yield publish
            finally:
                remove()
    except BlockingIOError:
        raise ConfigError(
            f"another server of yours runs with the state folder {state}. Stop it, or name another folder in {VARIABLE}"
        ) from None


@contextmanager
def _locked(folder: Path, kind: int, patience_s: float) -> Iterator[None]:
    """Hold a lock on a folder. Raises BlockingIOError if another process has it for longer than `patience_s`."""
    give_up_at = time.monotonic() + patience_s
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= give_up_at:
                    raise
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)
