"""NATIX's road photos (natix-network-org/roadwork on the Hugging Face Hub) as Parquet.

Columns: image (a struct of bytes and path, or bytes), label (0 none, 1 road work), scene_description, and any further
text columns, which become tags. The dataset is gated, so it is read from a local file or folder. It does not record
which photos belong to one trip, so every photo is a group of its own and metrics may be optimistic.
"""

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from roadwork_serve.datasets.base import CorruptItem, DatasetItem
from roadwork_serve.datasets.samples import Sample, SampleMetadata
from roadwork_serve.errors import ConfigError

SOURCE = "natix-network-org/roadwork"
LICENCE = "as agreed with NATIX on the hub"
_ROWS = 64  # pictures in memory at once, some 4 MB each at most
_FIXED = ("image", "label", "scene_description")


@dataclass(frozen=True, slots=True)
class NatixDataset:
    """The rows of Parquet files; `DatasetItem.at` is FILE#ROW."""

    uri: str
    files: tuple[Path, ...]

    def items(self) -> list[DatasetItem]:
        """See `Dataset`. Reads no pictures."""
        return [item for path in self.files for item in self._items_in(path)]

    def samples(self, wanted: Sequence[DatasetItem]) -> Generator[Sample | CorruptItem]:
        """See `Dataset`."""
        ahead = iter(wanted)
        each = next(ahead, None)
        for path in self.files:
            if each is None or not each.at.startswith(f"{path}#"):
                continue
            for row, image in enumerate(_pictures(path)):
                if each is not None and each.at == f"{path}#{row}":
                    yield (
                        Sample(each.metadata, image)
                        if image
                        else CorruptItem(each.metadata.name, "the row has no picture")
                    )
                    each = next(ahead, None)

    def _items_in(self, path: Path) -> Iterator[DatasetItem]:
        with _opened(path) as file:
            schema = file.schema_arrow
            tags = [field.name for field in schema if field.name not in _FIXED and _is_text(field.type)]
            row = 0
            for batch in file.iter_batches(columns=["label", *tags]):
                for line in batch.to_pylist():
                    label = line.pop("label")
                    if label not in (0, 1, None):
                        raise ConfigError(f"{path}, row {row}: label {label!r}; 0 is none, 1 is road work")
                    metadata = SampleMetadata(
                        f"{path.stem}-{row:06}", "photo", bool(label), ignore=label is None,
                        tags=tuple(_tags(line)), source=SOURCE, licence=LICENCE,
                    )  # fmt: skip
                    yield DatasetItem(metadata, f"{path}#{row}")
                    row += 1


def natix_dataset(path: Path, uri: str) -> NatixDataset:
    """Open a Parquet file, or all those in a folder. Raises ConfigError for missing files or columns."""
    files = (path,) if path.is_file() else tuple(sorted(path.rglob("*.parquet")))
    if not files:
        raise ConfigError(f"{path} is neither a Parquet file nor a folder that holds one; write natix:FILE.parquet")
    for each in files:
        with _opened(each) as file:
            for column in ("image", "label"):
                if column not in file.schema_arrow.names:
                    raise ConfigError(f"{each} has no column {column!r}: it has {', '.join(file.schema_arrow.names)}")
    return NatixDataset(uri, files)


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path} cannot be read as Parquet: {error}") from None


def _pictures(path: Path) -> Iterator[bytes]:
    with _opened(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS, columns=["image"]):
            for image in batch.column("image").to_pylist():
                yield (image.get("bytes") if isinstance(image, dict) else image) or b""


def _is_text(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_list(kind) else kind
    return pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_dictionary(inner)


def _tags(line: dict[str, Any]) -> Iterator[str]:
    """Yield each text as a tag, and each member of a text that is a JSON list."""
    for value in line.values():
        if isinstance(value, str) and value.startswith("["):
            try:
                value = json.loads(value)
            except ValueError:
                value = [value]
        for tag in value if isinstance(value, list) else [value]:
            if tag:
                yield str(tag)
