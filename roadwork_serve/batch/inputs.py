"""The inputs of batch scoring: files in a folder or bucket, and rows of Parquet files among them."""

import fnmatch
import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from roadwork_serve.errors import ConfigError
from roadwork_serve.image_tables import holds_images, holds_text, image_of, open_table
from roadwork_serve.local_files import ListedFile, list_folder, read_problem, written_path
from roadwork_serve.printable import writable
from roadwork_serve.table_files import is_parquet

COLUMNS = "image", "bytes", "file", "path"  # default columns of a Parquet file; the first that exists is used
_ROWS = 64  # rows of a Parquet file in memory at a time, up to about 4 MB each
_PEEKS = 16  # files of a bucket whose first bytes are read at a time
_LONGEST_PATH = 4096  # letters; longer text in a column of paths is something else
# In a bucket reading first bytes takes a call each, so files with these endings are taken to be no tables.
_MEDIA = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})


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
    #: Why it cannot be scored; None if nothing is known against it.
    problem: str | None = None


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

        Where there are Parquet files, told by their bytes, their rows are inputs, and all other files are too. A table
        that cannot be used is an input with a problem, unless there is nothing else.

        Raises:
            ConfigError: There are no inputs, or a table has no column with images or paths.
        """
        found = [each for each in self._found() if self._wanted(each.name)]
        if not found:
            pattern = f" that matches {' or '.join(self.match)}" if self.match else ""
            raise ConfigError(f"{self.uri} has no file{pattern}; name a folder of photos and clips, or a Parquet file")
        listed: list[InputFile] = []
        unusable: list[ConfigError] = []
        for each, is_table in zip(found, self._are_tables(found), strict=True):
            if not is_table:
                listed.append(InputFile(each.name, each.path, size=each.size, problem=each.problem or None))
                continue
            try:
                listed += self._rows(each)
            except ConfigError as error:
                unusable.append(error)
                listed.append(InputFile(each.name, each.path, size=each.size, problem=str(error)))
        if len(unusable) == len(found):
            raise unusable[0]
        if not listed:
            raise ConfigError(f"{self.uri} has no rows")
        unique: dict[object, InputFile] = {}
        for each in listed:
            unique.setdefault((each.path, each.row, each.problem), each)
        return list(unique.values())

    def read(self, file: InputFile, max_bytes: int) -> bytes:
        """Return the bytes of a separate file, at most `max_bytes` + 1 of them. Raises OSError."""
        return self._read(file.path, max_bytes)

    def read_rows(self, wanted: Sequence[InputFile], max_bytes: int) -> Iterator[tuple[InputFile, bytes | OSError]]:
        """Yield the bytes in rows of one Parquet file, in order; empty if a row has no image.

        Rows with the path of a file instead have its bytes, as `read` does, or the error of reading it. Raises
        ConfigError if the table is damaged or gone.
        """
        ahead = iter(wanted)
        file = next(ahead)
        with open_table(partial(self._open, file.path), file.path) as table:
            column, start = self._column(table, file.path), 0
            for group in range(table.num_row_groups):
                end = start + table.metadata.row_group(group).num_rows
                if file.row is not None and file.row < end:
                    for batch in table.iter_batches(batch_size=_ROWS, row_groups=[group], columns=[column]):
                        values = batch.column(0)
                        while file.row is not None and file.row < start + len(values):
                            yield file, self._content(file.path, values[file.row - start].as_py(), max_bytes)
                            if (following := next(ahead, None)) is None:
                                return
                            file = following
                        start += len(values)
                start = end

    @property
    def _local(self) -> bool:
        return isinstance(self.files, LocalFileSystem)

    def _open(self, path: str) -> BinaryIO:
        """Open a file. Raises OSError."""
        if self._local:  # names that are not UTF-8 are none to pyarrow
            return Path(path).open("rb")
        return cast(BinaryIO, self.files.open_input_file(path))

    def _read(self, path: str, max_bytes: int) -> bytes:
        try:
            with self._open(path) as stream:
                return stream.read(max_bytes + 1)
        except OSError as error:
            raise OSError(error.errno, read_problem(Path(path), error)) if self._local else error from None

    def _found(self) -> list[ListedFile]:
        if self._local:
            path = Path(self.path)
            if path.is_dir():
                return list_folder(path)
            if not path.exists():
                raise ConfigError(f"{self.uri} does not exist")
            return [ListedFile(writable(path.name), self.path, path.stat().st_size)]
        try:
            (here,) = self.files.get_file_info([self.path])
            if here.type == FileType.File:
                return [ListedFile(PurePosixPath(self.path).name, here.path, here.size)]
            each = self.files.get_file_info(FileSelector(self.path, recursive=True, allow_not_found=True))
        except OSError as error:
            raise ConfigError(f"{self.uri} cannot be listed: {error}") from None
        files = sorted((info for info in each if info.type == FileType.File), key=lambda info: info.path)
        named = [(info.path.removeprefix(self.path).lstrip("/"), info) for info in files]
        return [
            ListedFile(name, info.path, info.size)
            for name, info in named
            if not any(part.startswith(".") for part in name.split("/"))
        ]

    def _wanted(self, name: str) -> bool:
        return not self.match or any(fnmatch.fnmatchcase(name, each) for each in self.match)

    def _are_tables(self, found: Sequence[ListedFile]) -> Iterator[bool]:
        """Yield for each file whether it begins as Parquet does."""

        def is_table(file: ListedFile) -> bool:
            if file.problem or not file.size or (not self._local and Path(file.name).suffix.lower() in _MEDIA):
                return False
            try:
                return is_parquet(self._open(file.path))
            except OSError:  # it is told when the file is read
                return False

        if self._local:
            yield from map(is_table, found)
            return
        with ThreadPoolExecutor(_PEEKS) as pool:
            yield from pool.map(is_table, found)

    def _rows(self, file: ListedFile) -> Iterator[InputFile]:
        with open_table(partial(self._open, file.path), file.path) as table:
            column = self._column(table, file.path)
            if holds_images(table.schema_arrow.field(column).type):
                yield from (InputFile(f"{file.name}#{row}", file.path, row) for row in range(table.metadata.num_rows))
                return
            row = 0
            for batch in table.iter_batches(columns=[column]):
                for text in batch.column(0).to_pylist():
                    yield self._named(file, row, text)
                    row += 1

    def _named(self, table: ListedFile, row: int, text: str | None) -> InputFile:
        """Return the file that a row of a table has the path of."""
        name = f"{table.name}#{row}"
        if not text:
            return InputFile(name, table.path, problem=f"row {row} of the table has no path")
        try:
            path = self._path(table.path, text)
        except OSError as error:
            return InputFile(name, table.path, problem=str(error))
        within = path.removeprefix(f"{self.path.rstrip('/')}/")
        return InputFile(writable(within if self.path != table.path else text), path)

    def _path(self, table: str, text: str) -> str:
        """Return the path of a file that a table has as text, relative to the table. Raises OSError if it is none."""
        if len(text) > _LONGEST_PATH or "\0" in text:
            raise OSError(f"the row has {len(text):,} letters of text, which are no path; images must be bytes")
        if text.startswith("file://") and self._local:
            text = unquote(urlsplit(text).path)
        if "://" in text:
            raise OSError(f"{text} is a URL; download the file, and write its path from the table's folder")
        folder = PurePosixPath(table).parent
        text = written_path(Path(folder), text) if self._local else text.replace("\\", "/")
        return posixpath.normpath(folder / text)

    def _content(self, table: str, cell: object, max_bytes: int) -> bytes | OSError:
        image = image_of(cell)
        if isinstance(image, bytes):
            return image
        try:
            return self._read(self._path(table, image), max_bytes)
        except OSError as error:
            return error

    def _column(self, table: pq.ParquetFile, path: str) -> str:
        """Return the column with images or paths. Raises ConfigError if there is none, or it has another type."""
        schema = table.schema_arrow
        column = self.column or next((name for name in COLUMNS if name in schema.names), None)
        there = ", ".join(schema.names)
        if column is None or column not in schema.names:
            wanted = f"column {self.column!r}" if self.column else f"column named {' or '.join(COLUMNS)}"
            raise ConfigError(f"{path} has no {wanted}: it has {there}; name one with --column")
        kind: pa.DataType = schema.field(column).type
        if not (holds_text(kind) or holds_images(kind)):
            raise ConfigError(f"{path}: {column} is {kind}; images must be bytes, paths, or structs of both")
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
