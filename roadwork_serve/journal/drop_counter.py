"""A count of lost records that survives the process, in a file of fixed size.

The file is made before anything is lost, and overwritten in place with one write of a few bytes. It therefore needs no
space on a disk that has become full, and a process that is killed leaves the old number or the new one.
"""

import contextlib
import os
from pathlib import Path
from threading import Lock

_NAME = "dropped"
_DIGITS = 20


class DropCounter:
    """The count of one spool folder. In memory it is always right; on disk, as soon as the disk permits."""

    def __init__(self) -> None:
        self.count = 0
        self._changing = Lock()
        self._descriptor: int | None = None

    def open(self, folder: Path) -> None:
        """Store the count in this folder from now on. Raises OSError."""
        self.close()
        self._descriptor = os.open(folder / _NAME, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        os.pwrite(self._descriptor, self._text(), 0)

    def add(self, records: int) -> None:
        """Count lost records."""
        with self._changing:
            self.count += records
            if records and self._descriptor is not None:
                with contextlib.suppress(OSError):
                    os.pwrite(self._descriptor, self._text(), 0)

    def take_over(self, folder: Path) -> None:
        """Add the count of a dead process's folder, and remove it there."""
        self.add(read_dropped(folder))
        with contextlib.suppress(OSError):
            (folder / _NAME).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _text(self) -> bytes:
        return b"%0*d" % (_DIGITS, self.count)


def read_dropped(folder: Path) -> int:
    """Return the number of records that the process of a spool folder has lost."""
    try:
        return int((folder / _NAME).read_bytes())
    except (OSError, ValueError):
        return 0
