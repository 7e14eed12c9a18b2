"""A queue of records on the local disk, until the journal acknowledges that they are written.

A record is handed to the kernel before `append` returns, so it survives this process, however that ends. A power cut
loses the last seconds that the kernel had not written yet. A folder belongs to one process at a time, which holds a
lock that the kernel releases when the process dies; then any other process with a folder beside it may adopt the rest.

If its folder or its files vanish, the queue makes them anew; their records are counted as dropped. So are records for
which there is no space. The count survives the process, see `drop_counter`.

The queue does not interpret records: see `coding` for their versions and what becomes of those of an earlier release.
"""

import contextlib
import logging
import os
import secrets
import shutil
import zlib
from collections import Counter, deque
from pathlib import Path
from threading import Lock

from roadwork_serve.journal.drop_counter import DropCounter, read_dropped
from roadwork_serve.journal.segments import (
    FRAME,
    LOCK,
    SEGMENTS,
    append_bytes,
    frames,
    is_at,
    lock_folder,
    remove,
    store_position,
)
from roadwork_serve.journal.storage_error import StorageError
from roadwork_serve.state_folder import make_folder

_LOG = logging.getLogger(__name__)
_SEGMENT = 8 * 2**20  # bytes; a segment is deleted when all of it is acknowledged
_PROBE = 4096  # bytes


class Spool:
    """A queue in a folder. For one thread at a time; only `adopt_orphans` may run concurrently."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Open the queue, with what a process left in the folder before.

        Args:
            folder: for this process alone; those of other processes lie beside it.
            max_bytes: limit of records that are not acknowledged.

        While the disk rejects the folder, records are dropped, counted, and `error` is set.

        Raises:
            FileExistsError: if the folder belongs to a running process.
        """
        #: Why the last record was dropped; None once a record can be written.
        self.error: StorageError | None = None
        self._dropped = DropCounter()
        self._folder, self._max_bytes = folder, max_bytes
        self._lock: int | None = None
        self._pending: deque[tuple[Path, int, int]] = deque()  # segment, offset and length of each record
        self._bytes = 0
        self._left = Counter[Path]()  # pending records by segment
        self._changing = Lock()
        self._writing: tuple[Path, int, int] | None = None  # segment, descriptor, size
        self._number = 0
        self._adopted: deque[tuple[Path, int]] = deque()  # adopted folders and their locks
        try:
            make_folder(folder)
            if (lock := lock_folder(folder)) is None:
                raise FileExistsError(f"{folder} belongs to a running process; give each process its own folder")
            self._lock = lock
            self._dropped.add(read_dropped(folder))
            self._dropped.open(folder)
            self._load(folder)
        except OSError as error:
            if isinstance(error, FileExistsError) and error.errno is None:
                raise
            self._fail(error)

    @property
    def dropped(self) -> int:
        """Number of records that were lost, by this process and those whose folders it has adopted."""
        return self._dropped.count

    @property
    def pending(self) -> int:
        """Number of records that are not acknowledged."""
        return len(self._pending)

    @property
    def pending_bytes(self) -> int:
        """Bytes of records that are not acknowledged."""
        return self._bytes

    def append(self, record: bytes) -> bool:
        """Add a record. Returns False, and counts it in `dropped`, if the queue is full or the disk rejects it."""
        if self._bytes + len(record) > self._max_bytes:
            limit = f"the spool is full: {self._max_bytes:,} bytes wait for the journal (max_spool_mib)"
            self.error = StorageError(None, f"{limit}: {self._folder}")
            self._dropped.add(1)
            return False
        try:
            path, descriptor, size = self._segment()
            frame = len(record).to_bytes(4, "big") + zlib.crc32(record).to_bytes(4, "big") + record
            append_bytes(descriptor, frame, size)
        except OSError as error:
            self._fail(error)
            self._dropped.add(1)
            return False
        self.error = None
        self._writing = path, descriptor, size + len(frame)
        self._queue([(path, size + FRAME, len(record))])
        return True

    def peek(self, max_records: int, max_bytes: int) -> list[bytes]:
        """Return the oldest records, at least one if there is any; the same ones until they are acknowledged."""
        while True:
            try:
                return self._peek(max_records, max_bytes)
            except FileNotFoundError as error:
                self._forget(Path(error.filename))

    def _peek(self, max_records: int, max_bytes: int) -> list[bytes]:
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
            try:
                if self._left[path] or (self._writing is not None and self._writing[0] == path):
                    store_position(path, position)
                else:
                    self._remove(path)
            except OSError as error:  # the records are safe; after a crash some would be sent again
                self._fail(error)

    def adopt_orphans(self) -> int:
        """Add the records and the count of losses that dead processes left beside this folder.

        Returns the number of records. A folder that cannot be read is logged and left alone.
        """
        found = 0
        try:
            folders = sorted(each for each in self._folder.parent.iterdir() if each.is_dir() and each != self._folder)
        except OSError:
            return 0  # it has vanished, and is made anew with the next record
        for folder in folders:
            try:
                found += self._adopt(folder)
            except OSError as error:
                _LOG.warning("The records in %s cannot be adopted: %s", folder, error)
        return found

    def recheck(self) -> None:
        """Clear `error` if a record could be written now."""
        if self.error is None:
            return
        if self.error.code is None and self._bytes > self._max_bytes // 2:
            return
        probe = self._folder / "probe"
        try:
            self._claim()
            probe.write_bytes(bytes(_PROBE))
        except OSError as error:
            self._fail(error)
        else:
            self.error = None
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the folder, and delete it if no record is pending and none has been lost."""
        self._close_segment()
        self._dropped.close()
        if not self._pending:
            if not self.dropped:
                shutil.rmtree(self._folder, ignore_errors=True)
            for path in self._folder.glob(SEGMENTS):
                remove(path)
        for lock in (self._lock, *(lock for _, lock in self._adopted)):
            if lock is not None:
                os.close(lock)
        self._lock = None
        self._adopted.clear()

    def _segment(self) -> tuple[Path, int, int]:
        """Return the segment to write to. Raises OSError."""
        self._claim()
        if self._writing is not None and not is_at(self._writing[1], self._writing[0]):
            self._close_segment()
        if self._writing is not None and self._writing[2] < _SEGMENT:
            return self._writing
        if self._writing is not None:
            done = self._writing[0]
            self._close_segment()
            if not self._left[done]:
                remove(done)
        self._number += 1
        path = self._folder / f"{self._number:08d}.segment"
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_EXCL | os.O_CLOEXEC
        self._writing = path, os.open(path, flags, 0o600), 0
        return self._writing

    def _close_segment(self) -> None:
        if self._writing is not None:
            os.close(self._writing[1])
            self._writing = None

    def _claim(self) -> None:
        """Make and lock the folder, if it has vanished or was never made. Raises OSError."""
        if self._lock is not None and is_at(self._lock, self._folder / LOCK):
            return
        make_folder(self._folder)
        if (lock := lock_folder(self._folder)) is None:  # another process has adopted it
            self._folder = self._folder.with_name(f"{self._folder.name}-{secrets.token_hex(4)}")
            make_folder(self._folder)
            lock = lock_folder(self._folder)
        if self._lock is not None:
            os.close(self._lock)
        self._lock = lock
        self._dropped.open(self._folder)

    def _fail(self, error: OSError) -> None:
        self.error = StorageError.of(error, Path(error.filename or self._folder))

    def _forget(self, path: Path) -> None:
        """Count the records of a segment that has vanished as lost."""
        with self._changing:
            gone = [length for where, _, length in self._pending if where == path]
            self._pending = deque(each for each in self._pending if each[0] != path)
            self._bytes -= sum(gone)
            del self._left[path]
        self._dropped.add(len(gone))
        _LOG.error("%s has vanished; the %d records that waited in it are lost.", path, len(gone))

    def _adopt(self, folder: Path) -> int:
        if (lock := lock_folder(folder, create=False)) is None:
            return 0
        try:
            found = self._load(folder)
        except OSError:
            os.close(lock)
            raise
        self._adopted.append((folder, lock))
        self._dropped.take_over(folder)
        self._release(folder)
        return found

    def _release(self, folder: Path) -> None:
        """Delete an adopted folder, if it has no segment left."""
        for adopted, lock in list(self._adopted):
            if adopted == folder and not any(adopted.glob(SEGMENTS)):
                self._adopted.remove((adopted, lock))
                shutil.rmtree(adopted, ignore_errors=True)
                os.close(lock)

    def _remove(self, path: Path) -> None:
        """Delete a segment that is acknowledged and not written to."""
        del self._left[path]
        remove(path)
        self._release(path.parent)

    def _queue(self, records: list[tuple[Path, int, int]]) -> None:
        with self._changing:
            self._pending.extend(records)
            self._bytes += sum(length for _, _, length in records)
            self._left.update(path for path, _, _ in records)

    def _load(self, folder: Path) -> int:
        """Add the records of a folder to the queue, all or none. Returns their number. Raises OSError."""
        segments = {path: list(frames(path)) for path in sorted(folder.glob(SEGMENTS)) if path.stem.isdecimal()}
        if folder == self._folder:
            self._number = max((int(path.stem) for path in segments), default=0)
        self._queue([(path, offset, length) for path, found in segments.items() for offset, length in found])
        for path, found in segments.items():
            if not found:
                remove(path)
        return sum(map(len, segments.values()))
