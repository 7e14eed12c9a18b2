"""Errors of the disk under the journal, with the name of the error and the path."""

import errno
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

#: Codes of a disk, or a user's share of it, that is full.
FULL = ("ENOSPC", "EDQUOT")
_MAY_BE_FULL = ("SQLITE_IOERR", "SQLITE_CANTOPEN")  # for want of space in some places, SQLite reports these


@dataclass(frozen=True, slots=True)
class StorageError:
    """Why something cannot be written."""

    #: The name of the error, such as ENOSPC; None if it is no error of the operating system.
    code: str | None
    #: One line for people, with the path.
    text: str

    @classmethod
    def of(cls, error: OSError, path: Path) -> "StorageError":
        """Describe an error at a path."""
        if error.errno is None:
            return cls(None, f"{error}: {path}")
        return cls._named(error.errno, path)

    @classmethod
    def of_sqlite(cls, error: BaseException, path: Path) -> "StorageError":
        """Describe an error of SQLite. A full disk gets the name that the operating system has for it."""
        name = getattr(error, "sqlite_errorname", None) or ""
        if isinstance(error, sqlite3.Error) and (
            name == "SQLITE_FULL" or (name.startswith(_MAY_BE_FULL) and _is_full(path))
        ):
            return cls._named(errno.ENOSPC, path)
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return cls(None, f"{line} ({name}): {path}" if name else f"{line}: {path}")

    @classmethod
    def _named(cls, number: int, path: Path) -> "StorageError":
        code = errno.errorcode.get(number, str(number))
        return cls(code, f"{code} {os.strerror(number)}: {path}")


def _is_full(path: Path) -> bool:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return False
    return found.f_bavail == 0
