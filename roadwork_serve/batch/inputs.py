"""The inputs of batch scoring: files in a folder or bucket, or rows of Parquet files."""

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from roadwork_serve.errors import ConfigError

COLUMNS = "image", "bytes", "file", "path"  # default columns of a Parquet file; the first that exists is used
_ROWS = 64  # rows of a Parquet file in memory at a time, up to about 4 MB each
_TABLE = ".parquet"


@dataclass(frozen=True, slots=True)
class InputFile:
    """A photo or clip to score."""

    #: Name in the result: the path below the source, or that of a Parquet file with the number of the row.
    name: str
    #: Path in the file system.
    path: str
    #: Row in the Parquet file at `path`; None for a separate file.
    row: int | None = None
    #: Size in bytes; None if it is unknown before the file is read.
    size: int | None = None


@dataclass(frozen=True, slots=True)
class InputSource:
    """A folder, bucket or Parquet file with inputs."""

    #: The source as the user wrote it.
    uri: str
    files: FileSystem
    path: str
    #: Patterns of file names to include; all by default.
    match: tuple[str, ...] = ()
    #: Column of a Parquet file with images or paths; by default the first of `COLUMNS`.
    column: str | None = None

    def list_files(self) -> list[InputFile]:
        """Return every input once, in the order of the paths or rows, without reading images.

        Raises:
            ConfigError: There are no inputs, or a table has no column with images or paths.
        """
        found = [(each, self._within(each.path)) for each in self._found()]
        found = [(each, name) for each, name in found if self._wanted(name)]
        if not found:
            pattern = f" that matches {' or '.join(self.match)}" if self.match else ""
            raise ConfigError(f"{self.uri} has no file{pattern}; name a folder of photos and clips, or a Parquet file")
        if all(name.endswith(_TABLE) for _, name in found):
            rows = [row for each, name in found for row in self._rows(each.path, name)]
            if not rows:
                raise ConfigError(f"{self.uri} has no rows")
            return list({row.name: row for row in rows}.values())
        return [InputFile(name, each.path, size=each.size) for each, name in found]

    def read(self, file: InputFile, max_bytes: int) -> bytes:
        """Return the bytes of a separate file, at most `max_bytes` + 1 of them. Raises OSError."""
        with self.files.open_input_stream(file.path) as stream:
            return stream.read(max_bytes + 1)

    def read_rows(self, wanted: Sequence[InputFile]) -> Iterator[tuple[InputFile, bytes]]:
        """Yield the bytes in rows of one Parquet file, in order; empty if a row has no image. Raises OSError."""
        ahead = iter(wanted)
        file = next(ahead)
        with self._opened(file.path) as table:
            column, start = self._column(table, file.path), 0
            for group in range(table.num_row_groups):
                end = start + table.metadata.row_group(group).num_rows
                if file.row is not None and file.row < end:
                    for batch in table.iter_batches(batch_size=_ROWS, row_groups=[group], columns=[column]):
                        values = batch.column(0)
                        while file.row is not None and file.row < start + len(values):
                            yield file, _image_bytes(values[file.row - start])
                            if (following := next(ahead, None)) is None:
                                return
                            file = following
                        start += len(values)
                start = end

    def _found(self) -> list[FileInfo]:
        try:
            (here,) = self.files.get_file_info([self.path])
            if here.type == FileType.File:
                return [here]
            if here.type == FileType.NotFound and isinstance(self.files, LocalFileSystem):
                raise ConfigError(f"{self.uri} does not exist")
            each = self.files.get_file_info(FileSelector(self.path, recursive=True, allow_not_found=True))
        except OSError as error:
            raise ConfigError(f"{self.uri} cannot be listed: {error}") from None
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
            folder = PurePosixPath(path).parent
            for batch in table.iter_batches(columns=[column]):
                for name in batch.column(0).to_pylist():
                    if name is not None:
                        yield InputFile(name, str(folder / name))

    def _opened(self, path: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.files.open_input_file(path))
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"{path} cannot be read as Parquet: {error}") from None

    def _column(self, table: pq.ParquetFile, path: str) -> str:
        """Return the column with images or paths. Raises ConfigError if there is none, or it has another type."""
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
            raise ConfigError(f"{path}: {column} is {kind}; images must be bytes, a struct with bytes, or paths")
        return column


def open_source(uri: str, match: Sequence[str] = (), column: str | None = None) -> InputSource:
    """Return the source at a path or URL (s3://, gs://, file://). Raises ConfigError for an invalid URL."""
    if "://" not in uri:
        return InputSource(uri, LocalFileSystem(), str(Path(uri).absolute()), tuple(match), column)
    try:
        files, path = FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{uri} is not a readable location: {error}") from None
    return InputSource(uri, files, path.rstrip("/"), tuple(match), column)


def _image_bytes(value: pa.Scalar) -> bytes:
    content = value.as_py()
    return (content.get("bytes") if isinstance(content, dict) else content) or b""


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
