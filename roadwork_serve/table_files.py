"""Tables that commands write, in the format of the file's ending, and the mark by which Parquet is told."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from roadwork_serve.errors import ConfigError
from roadwork_serve.printable import without_formula

_MAGIC = b"PAR1"  # of Parquet, at both ends of a file
ENDINGS = (".parquet", ".csv", ".jsonl")
Rows = Sequence[Mapping[str, Any]]


def is_parquet(file: BinaryIO) -> bool:
    """Return whether a file begins as Parquet does, and close it. Raises OSError."""
    with file:
        return file.read(len(_MAGIC)) == _MAGIC


def check_ending(path: Path, endings: Sequence[str] = ENDINGS) -> str:
    """Return the ending of a file to write, in lower case. Raises ConfigError if its format cannot be written."""
    if (ending := path.suffix.lower()) not in endings:
        raise ConfigError(f"{path} must end in {' or '.join(endings)}: the ending is the format that is written")
    return ending


@contextmanager
def table_writer(path: Path, columns: Mapping[str, type]) -> Iterator[Callable[[Rows], None]]:
    """Yield a function that appends rows, dicts by column, to a new table.

    In CSV, text that a spreadsheet would run as a formula gets an apostrophe in front.

    Args:
        path: The file, whose ending is the format.
        columns: The columns and their types: str, float, bool, int or datetime.

    Raises:
        ConfigError: The ending is of no table.
    """
    formats = {".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl}
    with formats[check_ending(path)](path, columns) as write:
        yield write


@contextmanager
def _parquet(path: Path, columns: Mapping[str, type]) -> Iterator[Callable[[Rows], None]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        str: pa.string(), float: pa.float64(), bool: pa.bool_(), int: pa.int64(), datetime: pa.timestamp("ms", "UTC"),
    }  # fmt: skip
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    with path.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema))


@contextmanager
def _csv(path: Path, columns: Mapping[str, type]) -> Iterator[Callable[[Rows], None]]:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        yield lambda rows: writer.writerows({name: _csv_cell(value) for name, value in row.items()} for row in rows)


@contextmanager
def _jsonl(path: Path, columns: Mapping[str, type]) -> Iterator[Callable[[Rows], None]]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda rows: file.writelines(
            json.dumps({name: row.get(name) for name in columns}, default=_time) + "\n" for row in rows
        )


def _csv_cell(value: object) -> object:
    if isinstance(value, datetime):
        return _time(value)
    return without_formula(value) if isinstance(value, str) else value


def _time(value: datetime) -> str:
    return value.isoformat(timespec="milliseconds")
