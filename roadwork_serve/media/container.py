"""Checks of MP4, MOV and WebM headers against the file size, before a demuxer relies on them."""

import struct
from collections.abc import Iterator

from roadwork_serve.errors import BrokenMedia, MediaTooLarge, UnsupportedMedia

MAX_SAMPLES = 6_000_000  # two minutes of 48 kHz PCM with one value per sample; FFmpeg allocates 70 bytes each
_SAMPLE_COUNT_AT = {b"stsz": 12, b"stz2": 12, b"trun": 8}  # ISO/IEC 14496-12, 8.7.3 and 8.8.8, from the type of the box
_EDIT_COUNT_AT = 8  # the same, 8.6.6
_MAX_BOXES = 20_000  # in a row, and tables of one name; fragments of 100 ms are 2,400 in two minutes
_MUST_BE_WHOLE = (b"ftyp", b"moov", b"moof", b"mdat")


def check_mp4(data: bytes) -> None:
    """Check the boxes of an MP4 or MOV against its length.

    A sample table declares its count in four bytes, and the demuxer allocates its index from it, so that a file of
    2 kB can request gigabytes. Each edit of an edit list adds the samples of its track again. The tables are found by
    name, anywhere outside the media data.

    Raises:
        BrokenMedia: The file is truncated.
        MediaTooLarge: It declares more samples than it has bytes, or than MAX_SAMPLES.
        UnsupportedMedia: Its header is compressed, which hides the tables.
    """
    samples, edits, position, boxes = 0, 1, 0, 0
    while position + 8 <= len(data):
        boxes += 1
        if boxes > _MAX_BOXES:
            raise MediaTooLarge(f"the clip has more than {_MAX_BOXES:,} boxes; export it again")
        size, kind = struct.unpack_from(">I4s", data, position)
        if size == 1 and position + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, position + 8)
        end = position + size if size >= 8 else len(data)
        if end > len(data) and kind in _MUST_BE_WHOLE:
            missing = f"{end - len(data):,} bytes of its {kind.decode()} part"
            raise BrokenMedia(f"the clip is truncated: {missing} are missing; send the whole file")
        if kind != b"mdat":
            if data.find(b"cmov", position, end) >= 0:
                raise UnsupportedMedia("the clip has a compressed header; export it again")
            for name, count_at in _SAMPLE_COUNT_AT.items():
                samples += sum(_counts(data, name, count_at, position, end))
            edits = max((edits, *_counts(data, b"elst", _EDIT_COUNT_AT, position, end)))
        position = end
    if samples * edits > min(len(data), MAX_SAMPLES):
        declared = f"{samples:,} samples" + (f" and edits them {edits:,} times" if edits > 1 else "")
        raise MediaTooLarge(
            f"the clip of {len(data):,} bytes declares {declared}; at most one per byte and "
            f"{MAX_SAMPLES:,} in all are accepted"
        )


def check_webm(data: bytes) -> None:
    """Raise BrokenMedia if the file is shorter than its segment (encoding: RFC 8794)."""
    header, at = _element_size(data, 4)
    size, start = _element_size(data, at + (header or 0) + 4)
    if size is not None and start + size > len(data):
        raise BrokenMedia(
            f"the clip is truncated: {start + size - len(data):,} bytes of its segment are missing; send the whole file"
        )


def _counts(data: bytes, name: bytes, count_at: int, start: int, end: int) -> Iterator[int]:
    """Yield the count in each box of this name between start and end, `count_at` bytes after its type."""
    for _ in range(_MAX_BOXES):
        start = data.find(name, start, end)
        if start < 0:
            return
        at = start + count_at + (8 if data[start - 4 : start] == b"\0\0\0\1" else 0)  # a size of 64 bits
        yield int.from_bytes(data[at : at + 4], "big")
        start += 4
    raise MediaTooLarge(f"the clip has more than {_MAX_BOXES:,} tables named {name.decode()}; export it again")


def _element_size(data: bytes, at: int) -> tuple[int | None, int]:
    """Return the size of an EBML element, None if unknown as in live streams, and the start of its content."""
    length = 9 - data[at].bit_length() if at < len(data) else 9
    coded = data[at : at + length]
    if len(coded) < length:
        raise BrokenMedia("the clip is truncated: it ends within its header; send the whole file")
    unknown = (1 << 7 * length) - 1
    size = int.from_bytes(coded, "big") & unknown
    return None if size == unknown else size, at + length
