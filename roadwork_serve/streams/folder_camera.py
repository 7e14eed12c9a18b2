"""A camera that puts photos and short clips into a folder."""

import errno
import os
import stat
import time
from pathlib import Path
from typing import NamedTuple

from roadwork_serve.clip_formats import clip_format
from roadwork_serve.profiles.media_limits import MediaLimits
from roadwork_serve.still_formats import still_format
from roadwork_serve.streams.camera import CameraLost, Picture

_LOOK_S = 0.2  # from one look into the folder to the next
_LOOK_SHARE = 0.1  # of the time that looking may take, where a folder has very many files
_SETTLED_S = 3.0  # a file that has not changed for so long is complete
_JPEG_SETTLED_S = 0.15  # the same for a JPEG that has its end
_STALE_S = 1.5  # when the oldest complete file is older, all but the newest are left out
_JPEG_END = b"\xff\xd9"
_HEAD, _TAIL = 4096, 64


class _Version(NamedTuple):
    """The marks that tell one content of a file from another."""

    inode: int
    size: int
    changed_ns: int


def _version(found: os.stat_result) -> _Version:
    return _Version(found.st_ino, found.st_size, found.st_mtime_ns)


class _New(NamedTuple):
    """A file that was not read yet in its present version."""

    version: _Version
    #: When this version came: in seconds since 1970, and by the monotonic clock.
    at_s: float
    since_s: float


class FolderCamera:
    """New files of a folder, each once, in the order in which they came. See `Camera`.

    Files that were there before are not new, until they are written again. A JPEG counts when its end marker is there,
    another file when it has not changed for three seconds.
    """

    every_counts = True

    def __init__(self, folder: Path, limits: MediaLimits) -> None:
        self._folder, self._limits = folder, limits
        self._read_before: dict[str, _Version] = {}
        self._new: dict[str, _New] = {}
        self._look_after_s, self._looked_s = 0.0, time.time()
        #: Files that were left out: they are too large, or newer ones came faster than they were asked for.
        self.dropped = 0
        self._look()
        self._read_before = {name: each.version for name, each in self._new.items()}
        self._new.clear()

    def newest(self, wait_s: float) -> Picture | None:
        """Return the next picture; None if none comes in time. Raises CameraLost while the folder is not there."""
        give_up_at = time.monotonic() + wait_s
        while True:
            if time.monotonic() >= self._look_after_s:
                self._look()
            for name in self._complete():
                if (picture := self._picture(name)) is not None:
                    return picture
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                return None
            time.sleep(min(_LOOK_S, left_s))

    def close(self) -> None:
        """Do nothing."""

    def _look(self) -> None:
        """Note what is new, and what has changed or gone."""
        began_s, now_s = time.monotonic(), time.time()
        names: set[str] = set()
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    if stat.S_ISREG(found.st_mode) and not entry.name.startswith("."):
                        names.add(entry.name)
                        self._note(entry.name, _version(found), now_s, began_s)
        except OSError as error:
            raise CameraLost(f"{self._folder} cannot be read: {error.strerror}") from None
        for known in (self._read_before, self._new):
            for name in known.keys() - names:
                del known[name]
        self._looked_s = now_s
        took_s = time.monotonic() - began_s
        self._look_after_s = began_s + max(_LOOK_S * 0.9, took_s / _LOOK_SHARE)

    def _note(self, name: str, version: _Version, now_s: float, mono_s: float) -> None:
        """Note a version of a file. It came when it was changed, if that was after the last look, and else now."""
        changed_s = version.changed_ns / 1e9
        at_s = changed_s if self._looked_s <= changed_s <= now_s else now_s
        since_s = mono_s - (now_s - at_s)
        read, new = self._read_before.get(name), self._new.get(name)
        if new is not None:
            if new.version != version:
                self._new[name] = _New(version, at_s, since_s)
        elif read is None or _is_written_again(read, version):
            self._new[name] = _New(version, at_s, since_s)

    def _complete(self) -> list[str]:
        """Return the complete files, the next one first."""
        now_s = time.monotonic()
        complete = sorted(
            (new.since_s, new.version.changed_ns, name)
            for name, new in self._new.items()
            if now_s - new.since_s >= _SETTLED_S or (now_s - new.since_s >= _JPEG_SETTLED_S and self._has_its_end(name))
        )
        if complete and now_s - complete[0][0] > _STALE_S + (0 if self._has_its_end(complete[0][2]) else _SETTLED_S):
            for _, _, name in complete[:-1]:
                self._read_before[name] = self._new.pop(name).version
                self.dropped += 1
            complete = complete[-1:]
        return [name for _, _, name in complete]

    def _has_its_end(self, name: str) -> bool:
        """Return whether a file is a JPEG that is there to its end."""
        try:
            with open(self._folder / name, "rb", opener=_open_file) as file:
                found = os.fstat(file.fileno())
                if _version(found) != self._new[name].version:
                    return False  # it grows
                file.seek(max(0, found.st_size - _TAIL))
                return file.read(_TAIL).rstrip(b"\0").endswith(_JPEG_END)
        except OSError:
            return False

    def _picture(self, name: str) -> Picture | None:
        """Return a file, which then is no longer new; None if it is no photo or clip."""
        new = self._new.pop(name)
        self._read_before[name] = new.version
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
        return Picture(new.at_s, name, data, time.monotonic() - new.since_s)


def _is_written_again(read: _Version, now: _Version) -> bool:
    """Return whether a file has other content than when it was read. Some servers set the time after an upload."""
    return (read.inode, read.size) != (now.inode, now.size) or now.changed_ns > read.changed_ns


def _open_file(path: str, flags: int) -> int:
    """Open a regular file. Raises OSError for a link, a pipe or a device, without waiting."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no regular file")
    return descriptor
