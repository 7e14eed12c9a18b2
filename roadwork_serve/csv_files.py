"""CSV files that people write: rows by column name, and errors that name the file, the line and the column."""

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from roadwork_serve.errors import ConfigError


@dataclass(frozen=True, slots=True)
class CsvRow:
    """A row of a file."""

    path: Path
    #: Number of the row's last line in the file, counted from 1.
    line: int
    values: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        """Return a cell without surrounding space; empty if the row is too short or has no such column."""
        return self.values.get(column, "").strip()

    def choice(self, column: str, allowed: Collection[str]) -> str:
        """Return a cell that must be one of the allowed words. Raises ConfigError."""
        if (value := self[column]) not in allowed:
            words = ", ".join(word or "nothing" for word in allowed)
            raise self.error(f"{column} {value!r}; write one of {words}")
        return value

    def required(self, column: str, cure: str) -> str:
        """Return a cell that must not be empty. Raises ConfigError."""
        if not (value := self[column]):
            raise self.error(f"{column} is empty; {cure}")
        return value

    def error(self, text: str) -> ConfigError:
        """Return an error that begins with the file and the line."""
        return ConfigError(f"{self.path}, line {self.line}: {text}")


@dataclass(frozen=True, slots=True)
class CsvTable:
    """The content of a file."""

    columns: tuple[str, ...]
    rows: tuple[CsvRow, ...]


def read_csv(path: Path, required: Sequence[str] = ()) -> CsvTable:
    """Read a file whose first line names the columns, in UTF-8 with or without a byte order mark.

    Raises ConfigError if it cannot be read, or lacks one of the required columns.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = tuple(reader.fieldnames or ())
            for column in required:
                if column not in columns:
                    raise ConfigError(
                        f"{path} has no column {column!r}; its first line must name {' and '.join(required)}"
                    )
            rows = tuple(CsvRow(path, reader.line_num, _text(row)) for row in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as CSV: {error}") from None
    return CsvTable(columns, rows)


def _text(row: Mapping[str | None, object]) -> dict[str, str]:
    """Return the cells that have both a column and a value."""
    return {name: value for name, value in row.items() if name is not None and isinstance(value, str)}
