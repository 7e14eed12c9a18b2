"""What an MP4, MOV or WebM file says of itself, held against its bytes before a demuxer believes it."""

import struct
from collections.abc import Iterator

from roadwork_serve.errors import BrokenMedia, MediaTooLarge, UnsupportedMedia

MAX_SAMPLES = 6_000_000  # two minutes of 48 kHz PCM, each value a sample of its own; FFmpeg takes 70 bytes for each
_SAMPLE_COUNT_AT = {b"stsz": 12, b"stz2": 12, b"trun": 8}  # ISO/IEC 14496-12, 8.7.3 and 8.8.8, from the box's type on
_EDIT_COUNT_AT = 8  # the same, 8.6.6
_MAX_BOXES = 20_000  # in a row, and tables of a name; a fragment of 100 ms each makes 2,400 of two minutes
_MUST_BE_WHOLE = (b"ftyp", b"moov", b"moof", b"mdat")


def check_mp4(data: bytes) -> None:
    """Hold the boxes of an MP4 or MOV against its length.

    A sample table may name any count in four bytes, and the demuxer builds its index from it: a file of
    2 kB can ask for gigabytes, and adds a track's samples again for each edit of its edit list. The tables
    are found by their name, wherever outside the pictures they stand.

    Raises BrokenMedia when the file is cut short, MediaTooLarge when it declares more samples than it has
    bytes, or than anyone needs, and UnsupportedMedia for a compressed header, which hides its tables.
    """
    samples, edits, position, boxes = 0, 1, 0, 0
    while position + 8 <= len(data):
        boxes += 1
        if boxes > _MAX_BOXES:
            raise MediaTooLarge(f"the clip comes in more than {_MAX_BOXES:,} parts; export it again")
        size, kind = struct.unpack_from(">I4s", data, position)
        if size == 1 and position + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, position + 8)
        end = position + size if size >= 8 else len(data)
        if end > len(data) and kind in _MUST_BE_WHOLE:
            missing = f"{end - len(data):,} bytes of its {kind.decode()} part"
            raise BrokenMedia(f"the clip is cut short: {missing} are missing; send the whole file")
        if kind != b"mdat":
            if data.find(b"cmov", position, end) >= 0:
                raise UnsupportedMedia("the clip has a compressed header; export it again")
            for name, count_at in _SAMPLE_COUNT_AT.items():
                samples += sum(_counts(data, name, count_at, position, end))
            edits = max((edits, *_counts(data, b"elst", _EDIT_COUNT_AT, position, end)))
        position = end
    if samples * edits > min(len(data), MAX_SAMPLES):
        told = f"{samples:,} samples" + (f" and edits them {edits:,} times" if edits > 1 else "")
        raise MediaTooLarge(
            f"the clip of {len(data):,} bytes declares {told}; at most one a byte and {MAX_SAMPLES:,} in all are read"
        )


def check_webm(data: bytes) -> None:
    """Raises BrokenMedia when the file is shorter than its segment says (RFC 8794 for the coding)."""
    header, at = _element_size(data, 4)
    size, start = _element_size(data, at + (header or 0) + 4)
    if size is not None and start + size > len(data):
        raise BrokenMedia(
            f"the clip is cut short: {start + size - len(data):,} bytes of its segment are missing; send the whole file"
        )


def _counts(data: bytes, name: bytes, count_at: int, start: int, end: int) -> Iterator[int]:
    """What each box of that name between start and end declares, `count_at` bytes from its type on."""
    for _ in range(_MAX_BOXES):
        start = data.find(name, start, end)
        if start < 0:
            return
        at = start + count_at + (8 if data[start - 4 : start] == b"\0\0\0\1" else 0)  # a size of 64 bits
        yield int.from_bytes(data[at : at + 4], "big")
        start += 4
    raise MediaTooLarge(f"the clip has more than {_MAX_BOXES:,} tables named {name.decode()}; export it again")


def _element_size(data: bytes, at: int) -> tuple[int | None, int]:
    """The size of an EBML element, None when left open as live streams do, and where its content begins."""
    length = 9 - data[at].bit_length() if at < len(data) else 9
    coded = data[at : at + length]
    if len(coded) < length:
        raise BrokenMedia("the clip is cut short: it ends within its header; send the whole file")
    unknown = (1 << 7 * length) - 1
    size = int.from_bytes(coded, "big") & unknown
    return None if size == unknown else size, at + length
