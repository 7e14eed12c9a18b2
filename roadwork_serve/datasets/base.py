"""The interface of a labelled dataset, and the implementation for items that are files."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from roadwork_serve.clip_formats import CLIP_SUFFIXES
from roadwork_serve.datasets.samples import Sample, SampleMetadata
from roadwork_serve.errors import ConfigError
from roadwork_serve.local_files import read_problem
from roadwork_serve.schema import MediaKind

_REASONS = 5


@dataclass(frozen=True, slots=True)
class DatasetItem:
    """An item of a dataset before its bytes are read."""

    metadata: SampleMetadata
    #: Where the dataset finds the bytes, such as a path relative to its folder.
    at: str
    #: Identifies the bytes, so that cached features are found without reading them; empty when only the bytes can tell.
    identity: str = ""
    #: 1 when the picture shows readable text, 0 when it does not, NaN when unknown.
    has_text: float = math.nan
    #: Why the item cannot be read; empty if nothing is known against it.
    problem: str = ""


@dataclass(frozen=True, slots=True)
class CorruptItem:
    """An item that the dataset lists but that cannot be used."""

    name: str
    reason: str


class Dataset(Protocol):
    """Labelled photos and clips from one source."""

    @property
    def uri(self) -> str:
        """The dataset as it is written on the command line."""
        ...

    def items(self) -> list[DatasetItem]:
        """Return every item, in a fixed order. Raises ConfigError when the source cannot be read."""
        ...

    def samples(self, wanted: Sequence[DatasetItem]) -> Generator[Sample | CorruptItem]:
        """Yield the bytes of these items, one for one. They must be in the order of `items`."""
        ...


@dataclass(frozen=True, slots=True)
class FileDataset:
    """A dataset whose items are one file each; `DatasetItem.at` is the path relative to the folder."""

    uri: str
    folder: Path
    entries: tuple[DatasetItem, ...]

    def items(self) -> list[DatasetItem]:
        """See `Dataset`."""
        return list(self.entries)

    def samples(self, wanted: Sequence[DatasetItem]) -> Generator[Sample | CorruptItem]:
        """See `Dataset`."""
        for item in wanted:
            if item.problem:
                yield CorruptItem(item.metadata.name, item.problem)
                continue
            path = self.folder / item.at
            try:
                yield Sample(item.metadata, path.read_bytes())
            except OSError as error:
                yield CorruptItem(item.metadata.name, read_problem(path, error))
            except ValueError as error:  # a NUL in the name
                yield CorruptItem(item.metadata.name, str(error))


def first_reasons(skipped: Sequence[CorruptItem]) -> str:
    """Return the first corrupt items with their reasons, for a message."""
    return "; ".join(f"{each.name}: {each.reason}" for each in skipped[:_REASONS])


def nothing_usable(skipped: Sequence[CorruptItem], unclear: int) -> ConfigError:
    """Return the error that no item of the data can be used."""
    causes = [f"{unclear} have no clear label"] if unclear else []
    if skipped:
        causes.append(f"{len(skipped)} cannot be read, the first of them {first_reasons(skipped)}")
    return ConfigError(f"none of the data can be used: {', and '.join(causes) or 'there is none'}")


def kind_of(name: str) -> MediaKind:
    """Guess the media kind from the suffix: clip for video files, photo otherwise. The decoder checks it later."""
    return "clip" if Path(name).suffix.lower() in CLIP_SUFFIXES else "photo"
