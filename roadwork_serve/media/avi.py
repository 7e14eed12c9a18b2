"""The chunks of an AVI (Microsoft's RIFF; OpenDML 1.02), as far as they tell what is missing."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from roadwork_serve.errors import BrokenMedia, MediaTooLarge

_CHUNK = struct.Struct("<4sI4s")
_LISTS = (b"RIFF", b"LIST")
_MAX_CHUNKS = 20_000  # beside the frames
_MAX_STREAMS = 64
_INDEX_HEADER, _INDEX_ENTRY = 24, 8  # bytes, OpenDML 1.02, 3.0


class _Chunk(NamedTuple):
    kind: bytes
    #: Of a list; of any other chunk the first bytes of its content.
    form: bytes
    start: int
    #: Position where it should end.
    end: int


def missing_bytes(data: bytes) -> int | None:
    """Return how many bytes of the file are missing; 0 if it is whole, None if it was never finished.

    Raises:
        BrokenMedia: It ends before its first frame.
        MediaTooLarge: There are too many chunks or streams, or an index declares more entries than it can hold.
    """
    frames, count, streams, unfinished, end = False, 0, 0, False, 0
    for riff in _row(data, 0, len(data)):
        if riff.kind != b"RIFF":
            break
        unfinished |= riff.end <= riff.start + 4  # cameras write the size when they stop
        end = max(end, riff.end)
        for chunk in _row(data, riff.start + 4, len(data) if unfinished else min(riff.end, len(data))):
            frames |= chunk.form == b"movi"
            end = max(end, chunk.end)
            inner = _tree(data, chunk) if chunk.kind == b"LIST" and chunk.form == b"hdrl" else ()
            for each in (chunk, *inner):
                count += 1
                streams += each.form == b"strl"
                if count > _MAX_CHUNKS or streams > _MAX_STREAMS:
                    raise MediaTooLarge(
                        f"the clip has more than {_MAX_CHUNKS:,} chunks or {_MAX_STREAMS} streams; export it again"
                    )
                if each.kind == b"indx":
                    _check_index(data, each)
        if unfinished:
            break
    if not frames:
        raise BrokenMedia("the clip is truncated: it ends before its first frame; send the whole file")
    return None if unfinished else max(0, end - len(data))


def _check_index(data: bytes, chunk: _Chunk) -> None:
    (declared,) = struct.unpack_from("<I", data[chunk.start : chunk.start + 8].ljust(8, b"\0"), 4)
    if declared > max(0, chunk.end - chunk.start - _INDEX_HEADER) // _INDEX_ENTRY:
        raise MediaTooLarge(f"the clip has an index of {declared:,} entries, more than it can hold; export it again")


def _tree(data: bytes, parent: _Chunk) -> Iterator[_Chunk]:
    """Yield the chunks within a list, and those within the lists in it."""
    for chunk in _row(data, parent.start + 4, min(parent.end, len(data))):
        yield chunk
        if chunk.kind == b"LIST":
            yield from _row(data, chunk.start + 4, min(chunk.end, len(data)))


def _row(data: bytes, at: int, end: int) -> Iterator[_Chunk]:
    while at + 12 <= end:
        kind, size, form = _CHUNK.unpack_from(data, at)
        if not kind.isascii() or not kind.strip(b"\0"):
            return
        yield _Chunk(kind, form if kind in _LISTS else b"", at + 8, at + 8 + size)
        at += 8 + size + size % 2
