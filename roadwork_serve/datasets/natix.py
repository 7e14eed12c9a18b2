"""NATIX's road photos (natix-network-org/roadwork on the Hugging Face Hub) as Parquet.

Columns: image (a struct of bytes or path, or bytes), label (0 none, 1 road work), scene_description, and any further
text columns, which become tags. Paths of images are relative to the folder of the table. The dataset is gated, so it
is read from a local file or folder. It does not record which photos belong to one trip, so every photo is a group of
its own and metrics may be optimistic.
"""

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from roadwork_serve.datasets.base import CorruptItem, DatasetItem
from roadwork_serve.datasets.samples import Sample, SampleMetadata
from roadwork_serve.errors import ConfigError
from roadwork_serve.image_tables import holds_images, holds_text, image_of, open_table
from roadwork_serve.local_files import list_folder, read_problem, written_path
from roadwork_serve.printable import writable
from roadwork_serve.table_files import is_parquet

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
                    name = each.metadata.name
                    yield Sample(each.metadata, image) if isinstance(image, bytes) else CorruptItem(name, image)
                    each = next(ahead, None)

    def _items_in(self, path: Path) -> Iterator[DatasetItem]:
        with open_table(partial(path.open, "rb"), path) as file:
            schema = file.schema_arrow
            tags = [field.name for field in schema if field.name not in _FIXED and _is_text(field.type)]
            row = 0
            for batch in file.iter_batches(columns=["label", *tags]):
                for line in batch.to_pylist():
                    label = line.pop("label")
                    if label not in (0, 1, None):
                        raise ConfigError(f"{path}, row {row}: label {label!r}; 0 is none, 1 is road work")
                    metadata = SampleMetadata(
                        writable(f"{path.stem}-{row:06}"), "photo", bool(label), ignore=label is None,
                        tags=tuple(_tags(line)), source=SOURCE, licence=LICENCE,
                    )  # fmt: skip
                    yield DatasetItem(metadata, f"{path}#{row}")
                    row += 1


def natix_dataset(path: Path, uri: str) -> NatixDataset:
    """Open a Parquet file, or all those in a folder, told by their bytes. Raises ConfigError.

    A file that is only named like one is an error, too.
    """
    files = (path,) if path.is_file() else tuple(_tables_in(path))
    if not files:
        raise ConfigError(f"{path} is neither a Parquet file nor a folder that holds one; write natix:FILE.parquet")
    for each in files:
        with open_table(partial(each.open, "rb"), each) as file:
            schema = file.schema_arrow
            for column in ("image", "label"):
                if column not in schema.names:
                    raise ConfigError(f"{each} has no column {column!r}: it has {', '.join(schema.names)}")
            if not (holds_images(kind := schema.field("image").type) or holds_text(kind)):
                raise ConfigError(f"{each}: image is {kind}; images must be bytes, paths, or a struct with either")
    return NatixDataset(uri, files)


def _tables_in(folder: Path) -> Iterator[Path]:
    for each in list_folder(folder):
        path = Path(each.path)
        try:
            if path.suffix.lower() == ".parquet" or (each.size and is_parquet(path.open("rb"))):
                yield path
        except OSError as error:
            raise ConfigError(f"{each.name} in {folder} cannot be read: {read_problem(path, error)}") from None


def _pictures(path: Path) -> Iterator[bytes | str]:
    """Yield the bytes of each row's image, or why there are none."""
    with open_table(partial(path.open, "rb"), path) as file:
        for batch in file.iter_batches(batch_size=_ROWS, columns=["image"]):
            for cell in batch.column("image").to_pylist():
                image = image_of(cell)
                yield (_read(path.parent, image) if isinstance(image, str) else image) or "the row has no picture"


def _read(folder: Path, written: str) -> bytes | str:
    path = folder / written_path(folder, written)
    try:
        return path.read_bytes()
    except OSError as error:
        return read_problem(path, error)
    except ValueError as error:  # a NUL in the path
        return str(error)


def _is_text(kind: pa.DataType) -> bool:
    return holds_text(kind.value_type if pa.types.is_list(kind) else kind)


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
