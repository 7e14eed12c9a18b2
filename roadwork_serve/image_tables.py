"""Parquet files with images as bytes, as paths, or as structs of both."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from roadwork_serve.errors import ConfigError


@contextmanager
def open_table(opening: Callable[[], BinaryIO], name: object) -> Iterator[pq.ParquetFile]:
    """Yield a Parquet file, and close it. Raises ConfigError if it is none, or damaged where it is read."""
    try:
        with opening() as file:
            yield pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{name} cannot be read as Parquet: {error}") from None


def holds_text(kind: pa.DataType) -> bool:
    """Return whether cells are text, also in a dictionary."""
    if pa.types.is_dictionary(kind):
        kind = cast(pa.DictionaryType, kind).value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def holds_images(kind: pa.DataType) -> bool:
    """Return whether cells are bytes, or structs with bytes or a path as datasets of Hugging Face have them."""
    if not pa.types.is_struct(kind):
        return _holds_bytes(kind)
    inner = {field.name: field.type for field in kind}
    bytes_kind, path_kind = inner.get("bytes"), inner.get("path")
    return (bytes_kind is not None and _holds_bytes(bytes_kind)) or (path_kind is not None and holds_text(path_kind))


def image_of(cell: object) -> bytes | str:
    """Return the bytes of an image, or the path of its file if the bytes are null; empty bytes if there is neither."""
    if isinstance(cell, dict):
        struct = cast(dict[str, object], cell)
        cell = struct.get("path") if struct.get("bytes") is None else struct["bytes"]
    return cell if isinstance(cell, bytes | str) and cell else b""


def _holds_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
