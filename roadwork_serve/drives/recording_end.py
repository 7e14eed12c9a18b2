"""The whole part of a recording, told from its outermost structure by a few reads, however long it is.

A demuxer that runs out of bytes between two frames cannot tell that from the end of the recording, and may refuse a
recording whose last fragment is cut.
"""

from collections.abc import Callable

from roadwork_serve.clip_formats import AVI, MPEG_PS, MPEG_TS, ClipFormat, ts_packets
from roadwork_serve.media import ebml
from roadwork_serve.media.container import Extent, check_container

_HEAD = 4096
_PS_TAIL = 128 * 2**10  # has the start of the last packet
_MAX_BOXES = 200_000  # fragments of a second have 7,200 an hour
_PADDING = b"\0\xff"


def find_extent(read: Callable[[int, int], bytes], kind: ClipFormat, size: int) -> Extent:
    """Return the part of a recording that a demuxer can read, and whether it is all that the container announces.

    Args:
        read: Returns bytes of the recording, by position and count; fewer at its end.
        kind: Its format.
        size: Its bytes.
    """
    match kind.demuxer:
        case "mov":
            return _mp4_extent(read, size)
        case "matroska":
            return Extent(0, size, not ebml.end_is_missing(read, size))
        case AVI.demuxer:
            return Extent(0, size, 8 + int.from_bytes(read(4, 4), "little") <= size)
        case MPEG_TS.demuxer:
            start, packet = ts_packets(read(0, _HEAD)) or (0, 188)
            rest = (size - start) % packet
            return Extent(0, size, not read(size - rest, rest).strip(_PADDING))
        case MPEG_PS.demuxer:
            return Extent(0, size, check_container(read(max(0, size - _PS_TAIL), _PS_TAIL), kind).complete)
        case other:
            raise ValueError(f"no check for the demuxer {other}")


def _mp4_extent(read: Callable[[int, int], bytes], size: int) -> Extent:
    at, last, fragmented = 0, b"", False
    for _ in range(_MAX_BOXES):
        head = read(at, 16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:], "big")
        elif length == 0:
            length = size - at
        if len(head) < 8 or length < 8:  # the end, or what is no box, which players leave out
            cut = fragmented and (last == b"moof" or bool(head.strip(b"\0")))
            return Extent(0, size, not cut)
        if at + length > size:
            return Extent(0, at if kind == b"moof" else size, complete=False)
        at, last, fragmented = at + length, kind, fragmented or kind == b"moof"
    return Extent(0, size)
