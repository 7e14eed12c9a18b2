"""A camera that puts photos and short clips into a folder."""

import errno
import os
import stat
import time
from pathlib import Path

from roadwork_serve.clip_formats import clip_format
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.still_formats import still_format
from roadwork_serve.streams.camera import CameraLost, Picture

_LOOK_S = 0.2  # from one look into the folder to the next
_SETTLED_S = 1.0  # a file that has not changed for so long is complete
_JPEG_SETTLED_S = 0.15  # the same for a JPEG that has its end
_JPEG_END = b"\xff\xd9"
_STALE_S = 0.5  # when the oldest file that waits is older, all but the newest are left out
_HEAD, _TAIL = 4096, 64
_CLOCK_STEP_NS = 20_000_000  # by which the clock of file systems may be behind
_MARGIN_S = 2.0  # in which a file system may give a change of the folder the same time as the last


def _open_file(path: str, flags: int) -> int:
    """Open a regular file. Raises OSError for a link, a pipe or a device, without waiting."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no regular file")
    return descriptor


class FolderCamera:
    """New files of a folder, each once, in the order in which they came. See `Camera`.

    Files that were there before are not new. A file counts once its size and time have not changed for a second; a JPEG
    that has its end marker counts at the second look.
    """

    def __init__(self, folder: Path, limits: MediaLimits) -> None:
        self._folder, self._limits = folder, limits
        self._last_ns = time.time_ns() - _CLOCK_STEP_NS
        self._folder_ns = -1
        #: New files: when they came, their size and time, and when these were first seen.
        self._files: dict[str, tuple[int, tuple[int, int], float]] = {}
        #: Files that were left out: they are too large, or newer ones came faster than they were asked for.
        self.dropped = 0

    def newest(self, wait_s: float) -> Picture | None:
        """Return the next picture; None if none comes in time. Raises CameraLost while the folder is not there."""
        give_up_at = time.monotonic() + wait_s
        while True:
            self._look()
            for name in self._due():
                if (picture := self._read(name)) is not None:
                    return picture
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                return None
            time.sleep(min(_LOOK_S, left_s))

    @property
    def waiting(self) -> int:
        """Files that are complete, or will be."""
        return len(self._files)

    def close(self) -> None:
        """Do nothing."""

    def _look(self) -> None:
        """Note new files, and which have changed."""
        now_s = time.time()
        try:
            folder_ns = self._folder.stat().st_mtime_ns
            if folder_ns != self._folder_ns or now_s - folder_ns / 1e9 < _MARGIN_S:
                self._folder_ns = folder_ns
                names = [each.name for each in os.scandir(self._folder)]
            else:
                names = list(self._files)
        except OSError as error:
            self._folder_ns = -1
            raise CameraLost(f"{self._folder} cannot be read: {error.strerror}") from None
        for name in names:
            try:
                found = (self._folder / name).lstat()
            except OSError:
                self._files.pop(name, None)
                continue
            if not stat.S_ISREG(found.st_mode) or name.startswith("."):
                continue
            known = self._files.get(name)
            if known is None and found.st_ctime_ns <= self._last_ns:
                continue
            version = (found.st_size, found.st_mtime_ns)
            if known is None or known[1] != version:
                self._files[name] = (found.st_ctime_ns, version, now_s)
        for name in self._files.keys() - set(names):
            del self._files[name]

    def _due(self) -> list[str]:
        """Return the complete files, the next one first."""
        now_s = time.time()
        complete = sorted(
            (came_ns, name)
            for name, (came_ns, (_, changed_ns), seen_s) in self._files.items()
            if now_s - changed_ns / 1e9 >= _SETTLED_S or (now_s - seen_s >= _JPEG_SETTLED_S and self._has_its_end(name))
        )
        if complete and now_s - complete[0][0] / 1e9 > _STALE_S + _SETTLED_S:
            for _, name in complete[:-1]:
                del self._files[name]
                self.dropped += 1
            complete = complete[-1:]
        return [name for _, name in complete]

    def _has_its_end(self, name: str) -> bool:
        """Return whether a file is a JPEG that is there to its end."""
        try:
            with open(self._folder / name, "rb", opener=_open_file) as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
                return file.read(_TAIL).rstrip(b"\0").endswith(_JPEG_END)
        except OSError:
            return False

    def _read(self, name: str) -> Picture | None:
        """Return a file, which then is no longer new; None if it is no photo or clip."""
        came_ns, _, _ = self._files.pop(name)
        self._last_ns = max(self._last_ns, came_ns)
        try:
            with open(self._folder / name, "rb", opener=_open_file) as file:
                head = file.read(_HEAD)
                if still_format(head) is None and clip_format(head) is None:
                    return None
                data = head + file.read(self._limits.max_bytes + 1 - len(head))
        except OSError:
            return None
        if len(data) > self._limits.max_bytes:
            self.dropped += 1
            return None
        came_s = came_ns / 1e9
        return Picture(came_s, name, data, max(0.0, time.time() - came_s))
