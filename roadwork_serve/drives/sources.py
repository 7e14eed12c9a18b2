"""The files of drives: recordings and photos in folders, their sidecars, and the times in their names."""

import datetime as dt
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from roadwork_serve.clip_formats import CLIP_SUFFIXES
from roadwork_serve.drives.track_files import TRACK_SUFFIXES
from roadwork_serve.errors import ConfigError
from roadwork_serve.local_files import list_folder
from roadwork_serve.printable import writable
from roadwork_serve.still_formats import STILL_SUFFIXES

_IDENTITY = 64 * 2**10  # bytes at the start that tell files of one name and size apart
_STAMP = re.compile(r"(?<!\d)(20\d\d)[-_.]?(\d\d)[-_.]?(\d\d)[-_.T ]*(\d\d)[-_.hH:]?(\d\d)[-_.mM:]?(\d\d)(?!\d{3})")
_GOPRO = re.compile(
    r"^(?:G[HXLS](?P<chapter>\d\d)(?P<number>\d{4})|GOPR(?P<first>\d{4})|GP(?P<old>\d\d)(?P<name>\d{4}))$"
)
_JOIN_S = 5.0  # between the end of a chapter and the start of the next


@dataclass(frozen=True, slots=True)
class Recording:
    """A file with a part of a drive."""

    path: Path
    #: Name in results: the path below the folder that was named, or the file's.
    name: str
    photo: bool = False

    @property
    def sidecar(self) -> Path | None:
        """The track beside it, a file of the same name with the ending of a track; None if there is none."""
        for suffix in TRACK_SUFFIXES:
            for each in (self.path.with_suffix(suffix), self.path.with_suffix(suffix.upper())):
                if each.is_file():
                    return each
        return None

    @property
    def named_start_s(self) -> float | None:
        """The time in its name by the camera's clock, as if that were UTC; None if it has none."""
        found = _STAMP.search(self.path.stem)
        try:
            return dt.datetime(*map(int, found.groups()), tzinfo=dt.UTC).timestamp() if found else None  # type: ignore[arg-type]
        except ValueError:
            return None

    def identity(self) -> str:
        """Return a text that is the same for the same file, wherever it lies. Raises OSError."""
        with self.path.open("rb") as file:
            head = file.read(_IDENTITY)
        about = f"{self.path.name}:{self.path.stat().st_size}:".encode("utf-8", "surrogateescape")
        return hashlib.sha256(about + head).hexdigest()[:24]


def find_recordings(sources: Sequence[Path]) -> list[Recording]:
    """Return the recordings and photos in files and folders, chapters in their order, each once.

    Raises ConfigError if a source is missing or there is nothing to read.
    """
    found: dict[Path, Recording] = {}
    for source in sources:
        if source.is_dir():
            for each in list_folder(source):
                if (kind := _kind(Path(each.path))) is not None and not each.problem:
                    found.setdefault(Path(each.path).resolve(), Recording(Path(each.path), each.name, kind == "photo"))
        elif source.is_file():
            found.setdefault(source.resolve(), Recording(source, writable(source.name), _kind(source) == "photo"))
        else:
            raise ConfigError(f"{source} does not exist; name a recording, or a folder with some")
    if not found:
        raise ConfigError(f"{' and '.join(map(str, sources))}: no recording or photo is there; name another folder")
    return sorted(found.values(), key=_order)


def joins(before: Recording, before_s: float, after: Recording) -> bool:
    """Return whether a recording goes on where one of `before_s` seconds ends: two chapters of one drive."""
    if before.path.parent != after.path.parent:
        return False
    chapters = _chapter(before), _chapter(after)
    if chapters[0] is not None and chapters[1] is not None:
        return chapters[0][0] == chapters[1][0] and chapters[1][1] == chapters[0][1] + 1
    starts = before.named_start_s, after.named_start_s
    if starts[0] is None or starts[1] is None:
        return False
    return abs(starts[1] - starts[0] - before_s) <= _JOIN_S


def chains(recordings: Sequence[Recording], seconds: Sequence[float]) -> list[list[int]]:
    """Return the drives as lists of the numbers of their chapters."""
    found = [[0]] if recordings else []
    for at, (before, after) in enumerate(pairwise(recordings)):
        if joins(before, seconds[at], after):
            found[-1].append(at + 1)
        else:
            found.append([at + 1])
    return found


def _chapter(recording: Recording) -> tuple[str, int] | None:
    """Return the number of a GoPro's recording and that of the chapter; None for other cameras."""
    found = _GOPRO.match(recording.path.stem.upper())
    if found is None:
        return None
    if found["first"]:
        return found["first"], 0
    return (found["number"], int(found["chapter"])) if found["number"] else (found["name"], int(found["old"]))


def _order(recording: Recording) -> tuple[str, float, str, int, list[int | str]]:
    """Return the key by which chapters are in order: by time, or by the camera's numbering."""
    number, chapter = _chapter(recording) or ("", 0)
    parts: list[int | str] = [each for each in re.split(r"(\d+)", recording.path.name)]
    parts[1::2] = [int(each) for each in parts[1::2]]
    return str(recording.path.parent), recording.named_start_s or 0.0, number, chapter, parts


def _kind(path: Path) -> str | None:
    suffix = path.suffix.lower()
    return "video" if suffix in CLIP_SUFFIXES else "photo" if suffix in STILL_SUFFIXES else None
