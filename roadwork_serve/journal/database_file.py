"""The file of an SQLite database, which somebody may remove or replace while it is open.

SQLite goes on with the open file then: commits succeed, and nobody will ever find them.
"""

import os
from pathlib import Path

from roadwork_serve.atomic_write import sync_path
from roadwork_serve.state_folder import make_folder

_Identity = tuple[int, int] | None  # device and inode


class DatabaseFile:
    """Compares the files that have the database's names with those that were opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log, self._index = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
        self._opened: _Identity = None
        self._opened_log: _Identity = None

    def create(self) -> None:
        """Create the file if it is missing, and its folder, for this user alone. Raises OSError."""
        make_folder(self.path.parent)
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return
        sync_path(self.path.parent)

    def identity(self) -> _Identity:
        """Return device and inode of the file that has the name now; None if there is none."""
        return _identity(self.path)

    def remember(self, opened: _Identity) -> None:
        """Remember which file was opened, and its write-ahead log."""
        self._opened, self._opened_log = opened, _identity(self._log)

    @property
    def replaced(self) -> bool:
        """True if the file that was opened no longer has the name."""
        return self.identity() != self._opened

    @property
    def moved(self) -> bool:
        """True if a commit to the open files would be lost: the database or its log is gone, or another one."""
        return self.replaced or (self._opened_log is not None and _identity(self._log) != self._opened_log)

    def remember_log(self) -> None:
        """Remember the write-ahead log, which SQLite creates when it first needs it."""
        if self._opened_log is None:
            self._opened_log = _identity(self._log)

    def discard_old_log(self) -> None:
        """Remove the log of the file that was opened, once another has its name: SQLite would mix the two."""
        if self.replaced and self._opened_log is not None and _identity(self._log) == self._opened_log:
            self._log.unlink(missing_ok=True)
            self._index.unlink(missing_ok=True)


def _identity(path: Path) -> _Identity:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
