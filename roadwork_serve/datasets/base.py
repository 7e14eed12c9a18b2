"""What every labelled data set can do: say what is in it, and hand over the bytes of what is wanted."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from roadwork_serve.datasets.samples import Sample, SampleMetadata
from roadwork_serve.schema import MediaKind

_CLIPS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})


@dataclass(frozen=True, slots=True)
class DatasetItem:
    """An item before its bytes are read.

    at: where the data set finds it. identity: stands for the bytes, so that features kept from before are found
        without them; empty where only the bytes themselves can tell.
    words: 1 with words worth reading on it, 0 without; NaN where nobody looked.
    """

    about: SampleMetadata
    at: str
    identity: str = ""
    words: float = math.nan


@dataclass(frozen=True, slots=True)
class CorruptItem:
    """A file that is listed and cannot be used, and why."""

    name: str
    why: str


class Dataset(Protocol):
    """Labelled photos and clips of one kind of source."""

    @property
    def spec(self) -> str:
        """As it is written on the command line."""
        ...

    def listed(self) -> list[DatasetItem]:
        """Everything in it, in a fixed order. Raises ConfigError where that cannot be told."""
        ...

    def samples(self, wanted: Sequence[DatasetItem]) -> Generator[Sample | CorruptItem]:
        """The bytes of these, one for one and in their order, which must be that of `listed`."""
        ...


@dataclass(frozen=True, slots=True)
class FileDataset:
    """Items that are a file each, listed beforehand; `at` is the path from the folder."""

    spec: str
    folder: Path
    items: tuple[DatasetItem, ...]

    def listed(self) -> list[DatasetItem]:
        """See `Dataset`."""
        return list(self.items)

    def samples(self, wanted: Sequence[DatasetItem]) -> Generator[Sample | CorruptItem]:
        """See `Dataset`."""
        for each in wanted:
            try:
                yield Sample(each.about, (self.folder / each.at).read_bytes())
            except OSError as error:
                yield CorruptItem(each.about.name, error.strerror or type(error).__name__)


def kind_of(name: str) -> MediaKind:
    """A clip by its suffix, else a photo; what it really is the bytes decide, later."""
    return "clip" if Path(name).suffix.lower() in _CLIPS else "photo"
