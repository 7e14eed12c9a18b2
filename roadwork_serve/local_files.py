"""Files of this machine: every file below a folder, and paths that people and programs write into tables."""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from roadwork_serve.errors import ConfigError
from roadwork_serve.printable import writable

_SHOWN = 300  # letters of a path in a message


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file below a folder, or something in its place that cannot be read."""

    #: Path below the folder, as it can be written to JSON and Parquet.
    name: str
    #: Path to open it by. Bytes that are not UTF-8 are surrogates, as everywhere in `os`.
    path: str
    #: Size in bytes; None if it cannot be read.
    size: int | None
    #: Why it cannot be read; empty if nothing is known against it.
    problem: str = ""


def list_folder(folder: Path) -> list[ListedFile]:
    """Return every file below a folder once, in the order of the names, without hidden ones.

    Linked folders are followed, each folder once, after all folders that are really there. A link to a folder that
    holds it is not followed, since it would only lead back.

    Raises ConfigError if the folder itself cannot be listed.
    """
    walk = _Walk()
    queue = [(os.fspath(folder), "")]
    while queue:
        for path, name in queue:
            walk.add_folder(path, name)
        queue, walk.links = sorted(walk.links), []
    return [each for _, each in sorted(walk.found, key=lambda pair: pair[0])]


def read_problem(path: Path, error: OSError) -> str:
    """Return why a file cannot be read, with what a person needs to find the cause."""
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    reason = error.strerror or type(error).__name__
    if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR):
        return reason
    if path.is_symlink():
        return f"it is a link to {writable(os.readlink(path))}: {reason}"
    if PureWindowsPath(path.name).drive or any(PureWindowsPath(part).drive for part in path.parts):
        return f"{reason}: {writable(str(path))}, a path on a drive of Windows; write the path from the table's folder"
    return f"{reason}: {writable(str(path))[:_SHOWN]}"


def written_path(folder: Path, text: str) -> str:
    r"""Return a path that is written in a table, from the table's folder: with / if it has the \ of Windows."""
    if "\\" not in text or (folder / text).exists():
        return text
    return PureWindowsPath(text).as_posix()


class _Walk:
    """The state of a listing."""

    def __init__(self) -> None:
        #: Parts of the path below the folder, and the file.
        self.found: list[tuple[list[str], ListedFile]] = []
        #: Path and name of linked folders that were met and not entered.
        self.links: list[tuple[str, str]] = []
        self._seen: set[tuple[int, int]] = set()

    def add_folder(self, path: str, name: str) -> None:
        """Add what is below a folder, if it has not been added yet."""
        stack = [(path, name)]
        while stack:
            path, name = stack.pop()
            try:
                about = os.stat(path)
                if (about.st_dev, about.st_ino) in self._seen:
                    continue
                self._seen.add((about.st_dev, about.st_ino))
                with os.scandir(path) as entries:
                    stack += [each for entry in entries if (each := self._add(entry, name)) is not None]
            except OSError as error:
                problem = f"the folder cannot be listed: {error.strerror or error}"
                if not name:
                    raise ConfigError(f"{path}: {problem}") from None
                self._keep(path, name, None, problem)

    def _add(self, entry: os.DirEntry[str], above: str) -> tuple[str, str] | None:
        """Add a file or a link, or return the path and name of a folder."""
        if entry.name.startswith("."):
            return None
        name = f"{above}/{entry.name}" if above else entry.name
        try:
            about = entry.stat()
        except OSError as error:
            self._keep(entry.path, name, None, read_problem(Path(entry.path), error))
            return None
        if stat.S_ISDIR(about.st_mode):
            if not entry.is_symlink():
                return entry.path, name
            if not _holds(entry.path):
                self.links.append((entry.path, name))
        elif stat.S_ISREG(about.st_mode):
            self._keep(entry.path, name, about.st_size)
        else:
            self._keep(entry.path, name, None, "it is neither a file nor a folder")
        return None

    def _keep(self, path: str, name: str, size: int | None, problem: str = "") -> None:
        self.found.append((name.split("/"), ListedFile(writable(name), path, size, problem)))


def _holds(link: str) -> bool:
    """Return whether a linked folder is one that the link is in."""
    here = os.path.realpath(os.path.dirname(link))
    return os.path.commonpath([here, target := os.path.realpath(link)]) == target
