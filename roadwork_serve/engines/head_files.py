"""The files of heads that policies name: regular files of bounded size below one folder, read within a time limit."""

import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitTimeout
from pathlib import Path, PurePosixPath
from typing import Generic, NamedTuple, TypeVar

from roadwork_serve.errors import ModelError
from roadwork_serve.state_folder import state_folder

T = TypeVar("T")
_MAX_SETTINGS = 64 * 2**10  # bytes of head.json
_MAX_WEIGHTS = 256 * 2**20  # bytes of head.safetensors; a head on ViT-7B features of all recipes has 50 MiB
_MAX_DEPTH = 8  # folders
_READ_S = 1.0  # a head on a local disk takes milliseconds
_MAX_PENDING = 4  # reads that hang


class HeadFiles(NamedTuple):
    """The content of head.json and head.safetensors."""

    settings: bytes
    weights: bytes


def heads_folder(configured: str | None) -> Path:
    """Return the folder of the heads that policies may name: the configured one, or `heads` in the state folder."""
    return Path(configured).absolute() if configured else state_folder() / "heads"


def relative_name(root: Path, head: str) -> PurePosixPath:
    """Return the name of a head as a path relative to the folder of heads.

    Raises:
        ModelError: It is outside that folder.
    """
    name = PurePosixPath(head)
    if name.is_absolute() and name.is_relative_to(root):
        name = name.relative_to(root)
    if name.is_absolute() or not 1 <= len(name.parts) <= _MAX_DEPTH or ".." in name.parts or "\0" in head:
        raise ModelError(f"a policy names heads by their folder below {root}: put the head there and give its name")
    return name


def read_head_files(root: Path, head: str) -> HeadFiles:
    """Read a head that a policy names. No symbolic link is followed below the folder of heads.

    Raises:
        ModelError: It is outside that folder, or there are no two regular files of sensible size.
    """
    name = relative_name(root, head)
    folder = -1
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        for part in name.parts:
            parent, folder = folder, os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(parent)
        settings = _read(folder, "head.json", _MAX_SETTINGS)
        return HeadFiles(settings, _read(folder, "head.safetensors", _MAX_WEIGHTS))
    except OSError:
        raise ModelError(
            f"there is no head {name} below {root}: it takes head.json and head.safetensors, as regular files"
        ) from None
    finally:
        if folder >= 0:
            os.close(folder)


def _read(folder: int, name: str, most: int) -> bytes:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)  # a FIFO must not block
    with os.fdopen(file, "rb") as opened:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode) or about.st_size > most:
            raise OSError("not a regular file of sensible size")
        return opened.read(most)


class TimedLoader(Generic[T]):
    """Loads heads on threads of its own, so that a disk that does not answer does not block the caller for long."""

    def __init__(self, load: Callable[[str], T]) -> None:
        self._load = load
        self._pending: dict[str, Future[T]] = {}

    def load(self, name: str) -> T:
        """Load a head. While a load of it hangs, further ones fail at once.

        Raises:
            ModelError: It takes too long. Also any error of the load.
        """
        running = self._pending.get(name)
        if running is None:
            for each in [each for each, future in self._pending.items() if future.done()]:
                del self._pending[each]
            if len(self._pending) >= _MAX_PENDING:
                raise ModelError(f"{_MAX_PENDING} other heads are still being read: check the disk, then try again")
            running = self._pending[name] = Future()
            threading.Thread(target=self._run, args=(name, running), daemon=True, name=f"head {name}").start()
            wait_s = _READ_S
        else:
            wait_s = 0.0
        try:
            head = running.result(wait_s)
        except WaitTimeout:
            raise ModelError(f"reading the head {name} takes longer than {_READ_S:g} s: check the disk") from None
        finally:
            if running.done():
                self._pending.pop(name, None)
        return head

    def _run(self, name: str, future: "Future[T]") -> None:
        try:
            future.set_result(self._load(name))
        except BaseException as error:
            future.set_exception(error)
