"""The files of a spool.

A segment is a file of frames: length and CRC-32 of a record, four bytes each, and the record. If a process died while
writing, the last frame is cut off: it was never confirmed, and is not read. A file beside the segment has the position
up to which it is acknowledged.
"""

import contextlib
import fcntl
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from roadwork_serve.atomic_write import replace_file
from roadwork_serve.journal.drop_counter import read_dropped

#: Pattern of a folder's segments.
SEGMENTS = "*.segment"
#: Bytes before each record.
FRAME = 8
#: The file whose lock the owner of a folder holds.
LOCK = "lock"
#: The file beside the folders, for records that the journal could not store.
DAMAGED = "damaged"
_ACKNOWLEDGED = "acknowledged"


def waiting(folder: Path) -> tuple[int, int]:
    """Return the number of records in a process's folder, and of those that it has lost. Changes nothing.

    Raises OSError.
    """
    count = sum(1 for path in folder.glob(SEGMENTS) for _ in frames(path))
    return count, read_dropped(folder)


def append_bytes(descriptor: int, data: bytes, size: int) -> None:
    """Append to a file of this size; if the disk rejects it, restore the size and raise OSError."""
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file still has this name."""
    try:
        found = path.stat()
    except OSError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def frames(path: Path) -> Iterator[tuple[int, int]]:
    """Yield offset and length of each complete record of a segment that is not acknowledged."""
    try:
        start = int(path.with_suffix(f".{_ACKNOWLEDGED}").read_text())
    except (OSError, ValueError):
        start = 0
    with path.open("rb") as file:
        file.seek(start)
        while len(frame := file.read(FRAME)) == FRAME:
            length, crc = int.from_bytes(frame[:4], "big"), int.from_bytes(frame[4:], "big")
            record = file.read(length)
            if len(record) != length or zlib.crc32(record) != crc:
                return
            yield file.tell() - length, length


def store_position(path: Path, position: int) -> None:
    """Store the position up to which a segment is acknowledged, unless it has vanished. Raises OSError."""
    if not path.exists():
        return
    with replace_file(path.with_suffix(f".{_ACKNOWLEDGED}"), mode=0o600, os_errors=True) as draft:
        draft.write_text(str(position))


def remove(path: Path) -> None:
    """Delete a segment. One that the disk keeps is read again after a restart, and the journal knows its records."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)  # first: a position without a segment is harmless
        path.with_suffix(f".{_ACKNOWLEDGED}").unlink(missing_ok=True)


def lock_folder(folder: Path, create: bool = True) -> int | None:
    """Lock a folder until the descriptor is closed or this process ends; return None if another process has it.

    Without `create` it also returns None for a folder that never was a spool's. Raises OSError if the folder has no
    room for the lock, or may not be changed.
    """
    try:
        lock = os.open(folder / LOCK, (os.O_CREAT if create else 0) | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None  # or it has just been removed
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(lock, folder / LOCK):
            return lock
    except OSError:
        pass
    os.close(lock)
    return None
