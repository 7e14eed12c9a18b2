"""CSV files that people write: rows by column name, and errors that name the file, the line and the column."""

import codecs
import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from roadwork_serve.errors import ConfigError
from roadwork_serve.terminal import echo

_SEPARATORS = ",;\t|"  # the first is taken where all do equally well
_SAMPLE = 4096  # bytes in which many zeros tell UTF-16 from everything else
_SHOWN = 200  # letters of a file in a message


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
    """Read a file whose first line names the columns, as editors, spreadsheets and scripts save it.

    Cells are separated by commas, semicolons, tabs or bars. The text is UTF-8, UTF-16 or else Windows-1252, which is
    told on stderr. Names of columns are stripped and in lower case. Lines without a value are left out.

    Raises ConfigError if it cannot be read, or lacks one of the required columns.
    """
    try:
        text, first = _without_hint(_decoded(path, path.read_bytes()))
        separator = first or _separator(text, required)
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        columns = tuple(name.strip().lower() for name in next(lines, ()))
        rows = tuple(
            CsvRow(path, lines.line_num + bool(first), dict(zip(columns, cells, strict=False)))
            for cells in lines
            if any(cell.strip() for cell in cells)
        )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as CSV: {error}") from None
    for column in required:
        if column not in columns:
            there = ", ".join(filter(None, columns))[:_SHOWN] or "nothing"
            raise ConfigError(
                f"{path} has no column {column!r}; its first line must name {' and '.join(required)}; it has {there}"
            )
    return CsvTable(columns, rows)


def _decoded(path: Path, data: bytes) -> str:
    """Return the text of a file. Raises UnicodeDecodeError."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    sample = data[:_SAMPLE]
    if sample.count(0) * 4 > len(sample):  # UTF-16 without a mark: the high byte of most letters is 0
        return data.decode("utf-16-le" if sample[1::2].count(0) >= sample[::2].count(0) else "utf-16-be")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        text = data.decode("cp1252", "replace")
    shown = text.split("\n")[line - 1].strip()[:_SHOWN]
    echo(
        f"{path} is not UTF-8, and is read as Windows-1252: line {line} is {shown!r}. If that looks wrong, save the "
        "file as UTF-8.",
        err=True,
        color="yellow",
    )
    return text


def _without_hint(text: str) -> tuple[str, str]:
    """Return the text without the line `sep=;`, which tells Excel the separator, and that separator."""
    hint = re.match(r'"?sep=([,;\t|])"?\r?\n', text, re.IGNORECASE)
    return (text[hint.end() :], hint[1]) if hint else (text, "")


def _separator(text: str, required: Sequence[str]) -> str:
    """Return the separator that finds most of the required columns in the first line, or else most columns."""

    def columns(separator: str) -> tuple[int, int]:
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
        return len(set(required) & {name.strip().lower() for name in names}), len(names)

    return max(_SEPARATORS, key=columns)
