"""A queue of records on the local disk, until the journal acknowledges that they are written.

A record is handed to the kernel before `append` returns, so it survives this process, however that ends. A power cut
loses the last seconds that the kernel had not written yet. A folder belongs to one process at a time, which holds a
lock that the kernel releases when the process dies; then any other process with a folder beside it may adopt the rest.

A segment is a file of frames: length and CRC-32 of a record, four bytes each, and the record. If a process died while
writing, the last frame is cut off: it was never confirmed, and is not read.

The queue does not interpret records: see `coding` for their versions and what becomes of those of an earlier release.
"""

import fcntl
import os
import shutil
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

from roadwork_serve.atomic_write import replace_file

_SEGMENT = 8 * 2**20  # bytes; a segment is deleted when all of it is acknowledged
_FRAME = 8
_LOCK, _ACKNOWLEDGED = "lock", "acknowledged"


class Spool:
    """A queue in a folder. For one thread at a time; only `adopt_orphans` may run concurrently."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Open the queue, with what a process left in the folder before.

        Args:
            folder: for this process alone; those of other processes lie beside it.
            max_bytes: limit of records that are not acknowledged.

        Raises:
            FileExistsError: if the folder belongs to a running process.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.dropped = 0  # records
        self._folder, self._max_bytes = folder, max_bytes
        self._lock = _locked(folder)
        if self._lock is None:
            raise FileExistsError(f"{folder} belongs to a running process; give each process its own folder")
        self._pending: deque[tuple[Path, int, int]] = deque()  # segment, offset and length of each record
        self._bytes = 0
        self._left = Counter[Path]()  # pending records by segment
        self._changing = Lock()
        self._writing: tuple[Path, int, int] | None = None  # segment, descriptor, size
        self._number = 0
        self._adopted: deque[tuple[Path, int]] = deque()  # adopted folders and their locks
        self._load(folder)

    @property
    def pending(self) -> int:
        """Number of records that are not acknowledged."""
        return len(self._pending)

    @property
    def pending_bytes(self) -> int:
        """Bytes of records that are not acknowledged."""
        return self._bytes

    def append(self, record: bytes) -> bool:
        """Add a record. Returns False, and counts it in `dropped`, if the queue or the disk is full."""
        if self._bytes + len(record) > self._max_bytes:
            self.dropped += 1
            return False
        try:
            path, descriptor, size = self._segment()
            frame = len(record).to_bytes(4, "big") + zlib.crc32(record).to_bytes(4, "big") + record
            written = os.write(descriptor, frame)
            if written != len(frame):
                os.ftruncate(descriptor, size)
                raise OSError("the disk is full")
        except OSError:
            self.dropped += 1
            return False
        self._writing = path, descriptor, size + len(frame)
        self._queue([(path, size + _FRAME, len(record))])
        return True

    def peek(self, max_records: int, max_bytes: int) -> list[bytes]:
        """Return the oldest records, at least one if there is any; the same ones until they are acknowledged."""
        found: list[bytes] = []
        size = 0
        for path, offset, length in self._pending:
            size += length
            if len(found) == max_records or (found and size > max_bytes):
                break
            with path.open("rb") as file:
                file.seek(offset)
                found.append(file.read(length))
        return found

    def acknowledge(self, count: int) -> None:
        """Remove the oldest `count` records. After a crash the last acknowledged ones may be returned again."""
        reached: dict[Path, int] = {}
        for _ in range(count):
            with self._changing:
                path, offset, length = self._pending.popleft()
                self._bytes -= length
                self._left[path] -= 1
            reached[path] = offset + length
        for path, position in reached.items():
            if self._left[path] or (self._writing is not None and self._writing[0] == path):
                _store_position(path, position)
            else:
                self._remove(path)

    def adopt_orphans(self) -> int:
        """Add the records that dead processes left beside this folder. Returns their number."""
        found = 0
        for folder in sorted(self._folder.parent.iterdir()):
            if folder == self._folder or not folder.is_dir() or (lock := _locked(folder)) is None:
                continue
            found += self._load(folder)
            if not any(folder.glob("*.segment")):
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
            else:
                self._adopted.append((folder, lock))
        return found

    def close(self) -> None:
        """Release the folder, and delete it if no record is pending."""
        if self._writing is not None:
            os.close(self._writing[1])
            self._writing = None
        if not self._pending:
            shutil.rmtree(self._folder, ignore_errors=True)
        for lock in (self._lock, *(lock for _, lock in self._adopted)):
            if lock is not None:
                os.close(lock)
        self._lock = None
        self._adopted.clear()

    def _segment(self) -> tuple[Path, int, int]:
        """Return the segment to write to."""
        if self._writing is not None and self._writing[2] < _SEGMENT:
            return self._writing
        if self._writing is not None:
            os.close(self._writing[1])
            done, self._writing = self._writing[0], None
            if not self._left[done]:
                _remove(done)
        self._number += 1
        path = self._folder / f"{self._number:08d}.segment"
        self._writing = path, os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_EXCL, 0o600), 0
        return self._writing

    def _remove(self, path: Path) -> None:
        """Delete a segment that is acknowledged and not written to."""
        del self._left[path]
        _remove(path)
        for adopted, lock in list(self._adopted):
            if adopted == path.parent and not any(adopted.glob("*.segment")):
                self._adopted.remove((adopted, lock))
                shutil.rmtree(adopted, ignore_errors=True)
                os.close(lock)

    def _queue(self, records: list[tuple[Path, int, int]]) -> None:
        with self._changing:
            self._pending.extend(records)
            self._bytes += sum(length for _, _, length in records)
            self._left.update(path for path, _, _ in records)

    def _load(self, folder: Path) -> int:
        """Add the records of a folder to the queue. Returns their number."""
        found = 0
        for path in sorted(folder.glob("*.segment")):
            self._number = max(self._number, int(path.stem)) if folder == self._folder else self._number
            records = [(path, offset, length) for offset, length in _frames(path)]
            if not records:
                _remove(path)
            self._queue(records)
            found += len(records)
        return found


def _frames(path: Path) -> Iterator[tuple[int, int]]:
    """Yield offset and length of each complete record of a segment that is not acknowledged."""
    try:
        start = int(path.with_suffix(f".{_ACKNOWLEDGED}").read_text())
    except (OSError, ValueError):
        start = 0
    with path.open("rb") as file:
        file.seek(start)
        while len(frame := file.read(_FRAME)) == _FRAME:
            length, crc = int.from_bytes(frame[:4], "big"), int.from_bytes(frame[4:], "big")
            record = file.read(length)
            if len(record) != length or zlib.crc32(record) != crc:
                return
            yield file.tell() - length, length


def _store_position(path: Path, position: int) -> None:
    """Store the position up to which a segment is acknowledged. Raises OSError."""
    with replace_file(path.with_suffix(f".{_ACKNOWLEDGED}"), mode=0o600, os_errors=True) as draft:
        draft.write_text(str(position))


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)  # first: a position without a segment is harmless
    path.with_suffix(f".{_ACKNOWLEDGED}").unlink(missing_ok=True)


def _locked(folder: Path) -> int | None:
    """Lock a folder until the descriptor is closed or this process ends; return None if another process has it."""
    try:
        lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return None  # it has just been removed
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(folder / _LOCK).st_ino == os.fstat(lock).st_ino:
            return lock
    except OSError:
        pass
    os.close(lock)
    return None
