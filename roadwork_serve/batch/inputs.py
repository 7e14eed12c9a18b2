"""What there is to score: the files of a folder or bucket, or the rows of Parquet files."""

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from roadwork_serve.errors import ConfigError

COLUMNS = "image", "bytes", "file", "path"  # of a Parquet file, the first that it has
_ROWS = 64  # of a Parquet file in memory at once, some 4 MB each at most
_TABLE = ".parquet"


@dataclass(frozen=True, slots=True)
class InputFile:
    """A photo or clip that is to be scored.

    name: what the result calls it: its path within what was named, or that of a Parquet file with the number of a row.
    path: where it lies in the file system. row: in the Parquet file there; None for a file of its own.
    size: bytes; None where that is not known before it is read.
    """

    name: str
    path: str
    row: int | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class InputSource:
    """A file system, what to look at in it, and the column that pictures or their paths are in where it is a table."""

    named: str
    files: FileSystem
    path: str
    match: tuple[str, ...] = ()
    column: str | None = None

    def listed(self) -> list[InputFile]:
        """Every file once, in the order of the paths, or of the rows. Nothing of a picture is read.

        Raises ConfigError where there is nothing, and where a table has no column with pictures or paths.
        """
        found = [(each, self._within(each.path)) for each in self._found()]
        found = [(each, name) for each, name in found if self._wanted(name)]
        if not found:
            asked = f" that matches {' or '.join(self.match)}" if self.match else ""
            raise ConfigError(f"{self.named} has no file{asked}; name a folder of photos and clips, or a Parquet file")
        if all(name.endswith(_TABLE) for _, name in found):
            rows = [row for each, name in found for row in self._rows(each.path, name)]
            if not rows:
                raise ConfigError(f"{self.named} has no rows")
            return list({row.name: row for row in rows}.values())
        return [InputFile(name, each.path, size=each.size) for each, name in found]

    def read(self, file: InputFile, most: int) -> bytes:
        """The bytes of a file of its own, `most` + 1 of them at most. Raises OSError."""
        with self.files.open_input_stream(file.path) as stream:
            return stream.read(most + 1)

    def pictures(self, wanted: Sequence[InputFile]) -> Iterator[tuple[InputFile, bytes]]:
        """The bytes in rows of one Parquet file, in order; none where a row has no picture. Raises OSError."""
        ahead = iter(wanted)
        file = next(ahead)
        with self._opened(file.path) as table:
            column, start = self._column(table, file.path), 0
            for group in range(table.num_row_groups):
                end = start + table.metadata.row_group(group).num_rows
                if file.row is not None and file.row < end:
                    for batch in table.iter_batches(batch_size=_ROWS, row_groups=[group], columns=[column]):
                        told = batch.column(0)
                        while file.row is not None and file.row < start + len(told):
                            yield file, _picture(told[file.row - start])
                            if (following := next(ahead, None)) is None:
                                return
                            file = following
                        start += len(told)
                start = end

    def _found(self) -> list[FileInfo]:
        try:
            (here,) = self.files.get_file_info([self.path])
            if here.type == FileType.File:
                return [here]
            if here.type == FileType.NotFound and isinstance(self.files, LocalFileSystem):
                raise ConfigError(f"{self.named} is not there")
            each = self.files.get_file_info(FileSelector(self.path, recursive=True, allow_not_found=True))
        except OSError as error:
            raise ConfigError(f"{self.named} cannot be listed: {error}") from None
        return sorted((info for info in each if info.type == FileType.File), key=lambda info: info.path)

    def _within(self, path: str) -> str:
        rest = path.removeprefix(self.path).lstrip("/")
        return rest or PurePosixPath(path).name

    def _wanted(self, name: str) -> bool:
        hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
        return not hidden and (not self.match or any(fnmatch.fnmatchcase(name, each) for each in self.match))

    def _rows(self, path: str, name: str) -> Iterator[InputFile]:
        with self._opened(path) as table:
            column = self._column(table, path)
            if not _is_text(table.schema_arrow.field(column).type):
                yield from (InputFile(f"{name}#{row}", path, row) for row in range(table.metadata.num_rows))
                return
            beside = PurePosixPath(path).parent
            for batch in table.iter_batches(columns=[column]):
                for told in batch.column(0).to_pylist():
                    if told is not None:
                        yield InputFile(told, str(beside / told))

    def _opened(self, path: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.files.open_input_file(path))
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"{path} cannot be read as Parquet: {error}") from None

    def _column(self, table: pq.ParquetFile, path: str) -> str:
        """Raises ConfigError where there is none, or of another type."""
        schema = table.schema_arrow
        column = self.column or next((name for name in COLUMNS if name in schema.names), None)
        there = ", ".join(schema.names)
        if column is None or column not in schema.names:
            wanted = f"column {self.column!r}" if self.column else f"column named {' or '.join(COLUMNS)}"
            raise ConfigError(f"{path} has no {wanted}: it has {there}; name one with --column")
        kind = schema.field(column).type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if not (_is_text(kind) or _is_bytes(kind)):
            raise ConfigError(f"{path}: {column} is {kind}; pictures are bytes, or a struct with bytes, or paths")
        return column


def open_source(named: str, match: Sequence[str] = (), column: str | None = None) -> InputSource:
    """What a path or a URL (s3://, gs://, file://) stands for. Raises ConfigError for a URL that makes no sense."""
    if "://" not in named:
        return InputSource(named, LocalFileSystem(), str(Path(named).absolute()), tuple(match), column)
    try:
        files, path = FileSystem.from_uri(named)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{named} is no place that files can be read from: {error}") from None
    return InputSource(named, files, path.rstrip("/"), tuple(match), column)


def _picture(value: pa.Scalar) -> bytes:
    told = value.as_py()
    return (told.get("bytes") if isinstance(told, dict) else told) or b""


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
