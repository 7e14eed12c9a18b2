"""The box tree of an MP4 or MOV, walked as FFmpeg's demuxer walks it (libavformat/mov.c).

What the demuxer does not enter, such as a note, a thumbnail, GPS or XMP, costs it nothing, whatever words are in it.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from roadwork_serve.errors import MediaTooLarge

MAX_BOXES = 50_000  # in all; fragments of 100 ms with sound have 30,000 in two minutes
_MAX_DEPTH = 10  # beyond it the demuxer gives up
_HEADER = struct.Struct(">I4s")
_CONTAINERS = frozenset(
    (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta", b"tref", b"mvex", b"moof", b"traf",
     b"sinf", b"schi", b"wave", b"ilst", b"iprp", b"ipco")
)  # fmt: skip
_VIDEO_ENTRY, _AUDIO_ENTRIES = 86, {0: 36, 1: 52, 2: 72}  # bytes of a sample description before its boxes, by version
_HANDLERS = (b"vide", b"soun")
_MOVIE_HEADERS = (b"mvhd", b"cmov")


class Box(NamedTuple):
    """A box. Its content is from `start` to `end`, within the box around it."""

    kind: bytes
    #: Position of its header.
    at: int
    start: int
    end: int
    #: Position where it should end; beyond the end of a truncated file.
    declared_end: int


class BoxTree:
    """The boxes of a file. Raises MediaTooLarge if there are more than `most`."""

    def __init__(self, data: bytes, most: int = MAX_BOXES) -> None:
        self._data = data
        self._count, self._most = 0, most
        #: Kind of the track whose boxes are read: `vide` or `soun`; empty for others.
        self.handler = b""
        #: The boxes at the top level.
        self.top: Sequence[Box] = list(self._row(0, len(data), b""))
        #: The index of the clip, `moov`. If there is none, the demuxer looks for one that was marked as free space.
        self.movie: Box | None = next(
            (box for retry in (False, True) for box in self.top if self._is_movie(box, retry)), None
        )

    def read(self) -> Iterator[Box]:
        """Yield the boxes that the demuxer reads, in its order."""
        for box in self.top:
            if box is self.movie or box.kind != b"moov":  # a second index is not read
                yield box
                yield from self._within(box, b"moov" if box is self.movie else box.kind, 1)

    def below(self, top: Box) -> Iterator[Box]:
        """Yield the boxes below one of the top level."""
        return self._within(top, b"moov" if top is self.movie else top.kind, 1)

    def _is_movie(self, box: Box, retry: bool) -> bool:
        hidden = box.kind == b"hoov" or (retry and box.kind == b"free")
        return box.kind == b"moov" or (hidden and self._data[box.start + 4 : box.start + 8] in _MOVIE_HEADERS)

    def _row(self, at: int, end: int, parent: bytes) -> Iterator[Box]:
        """Yield the boxes of a row."""
        while at + 8 <= end:
            self._count += 1
            if self._count > self._most:
                raise MediaTooLarge(f"the clip has more than {self._most:,} boxes; export it again")
            size, kind = _HEADER.unpack_from(self._data, at)
            if kind in (b"trak", b"mdat") and parent not in (b"", b"moov"):
                return  # the demuxer leaves such a row
            start = at + 8
            if size == 1 and at + 16 <= end:
                (size,) = struct.unpack_from(">Q", self._data, at + 8)
                start = at + 16
            elif size == 0:
                size = end - at
            if size < start - at:
                return
            yield Box(kind, at, start, min(at + size, end), at + size)
            at += size

    def _within(self, box: Box, kind: bytes, depth: int) -> Iterator[Box]:
        if depth > _MAX_DEPTH:
            return
        for start, end in self._rows(box, kind):
            for child in self._row(start, end, kind):
                if child.kind == b"trak":
                    self.handler = b""
                elif child.kind == b"hdlr" and self._data[child.start + 8 : child.start + 12] in _HANDLERS:
                    self.handler = self._data[child.start + 8 : child.start + 12]
                yield child
                yield from self._within(child, child.kind, depth + 1)

    def _rows(self, box: Box, kind: bytes) -> Iterator[tuple[int, int]]:
        """Yield start and end of each row of boxes within a box."""
        if kind in _CONTAINERS:
            yield box.start, box.end
        elif kind == b"meta" and (first := self._handler_of(box)) is not None:
            yield first, box.end
        elif kind == b"stsd":
            for entry in self._row(box.start + 8, box.end, kind):
                version = int.from_bytes(self._data[entry.at + 16 : entry.at + 18], "big")
                skip = {b"vide": _VIDEO_ENTRY, b"soun": _AUDIO_ENTRIES.get(version)}.get(self.handler)
                if skip is not None:
                    yield entry.at + skip, entry.end

    def _handler_of(self, meta: Box) -> int | None:
        """Return where `hdlr` begins in a `meta` box, which may have a version in front; None if it has none."""
        at = meta.start - 1
        while (at := self._data.find(b"hdlr", at + 1, meta.end)) >= 0:
            if (at - meta.start) % 4 == 0:
                return at - 4
        return None
