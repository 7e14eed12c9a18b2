"""The elements of a WebM or MKV (EBML, RFC 8794; Matroska, RFC 9559), as far as they tell what is missing."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from roadwork_serve.errors import MediaTooLarge

MAX_ELEMENTS = 50_000  # outside the clusters; two minutes have a few thousand
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_LEVEL_1 = frozenset(  # SeekHead, Info, Tracks, Cues, Chapters, Tags, Attachments
    (_CLUSTER, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1043A770, 0x1254C367, 0x1941A469)
)
_MASTERS = _LEVEL_1 - {_CLUSTER} | frozenset(
    (0xAE, 0xE0, 0xE1, 0x6D80, 0x6240, 0x5034, 0x7373, 0x67C8, 0x45B9, 0xB6, 0xBB, 0xB7, 0x4DBB, 0x61A7)
)  # TrackEntry, Video, Audio, encodings, Tag, SimpleTag, chapters, CuePoint and its positions, Seek, AttachedFile
_MAX_DEPTH = 8
_HEAD, _LONGEST_HEADER = 4096, 12  # bytes


class _Element(NamedTuple):
    id: int
    start: int
    #: None if it is unknown, as in live recordings.
    end: int | None


def missing_bytes(data: bytes) -> int | None:
    """Return how many bytes of the file are missing; 0 if it is whole, None if some are and no one knows how many.

    Raises MediaTooLarge if there are more than MAX_ELEMENTS outside the clusters.
    """
    segment = next((each for each in _row(data, 0, len(data)) if each.id == _SEGMENT), None)
    if segment is None:
        return None
    end = min(len(data), segment.end or len(data))
    count, at, stopped = 0, segment.start, False
    while (element := _element(data, at, end)) is not None:
        count = _counted(data, element, count)
        if element.end is None:
            if element.id != _CLUSTER:
                break
            at, count = _end_of_cluster(data, element.start, end, count)
        else:
            at = element.end
        if stopped := at > end:
            break
    if segment.end is not None:
        return max(0, segment.end - len(data))
    return None if stopped or at < end else 0


def end_is_missing(read: Callable[[int, int], bytes], size: int) -> bool:
    """Return whether the segment, or a part of it, ends beyond the file. `read` returns bytes, by position and size.

    A cluster of unknown size, as some live recordings have, may end anywhere.
    """
    head = read(0, _HEAD)
    segment = next((each for each in _row(head, 0, len(head)) if each.id == _SEGMENT), None)
    if segment is None:
        return True
    if segment.end is not None:
        return segment.end > size
    at = segment.start
    for _ in range(MAX_ELEMENTS):
        if at >= size:
            break
        element = _element(head := read(at, _LONGEST_HEADER), 0, len(head))
        if element is None or element.end is None:
            return element is None
        at += element.end
    return at > size


def _end_of_cluster(data: bytes, at: int, end: int, count: int) -> tuple[int, int]:
    """Return the end of a cluster of unknown size, and the number of elements with those in it."""
    while (element := _element(data, at, end)) is not None and element.id not in _LEVEL_1:
        count += 1
        if count > MAX_ELEMENTS:
            raise _too_many()
        at = end if element.end is None else element.end
    return at, count


def _counted(data: bytes, element: _Element, count: int, depth: int = 0) -> int:
    """Return the count with an element and those below it, which the demuxer would keep in lists."""
    count += 1
    if count > MAX_ELEMENTS:
        raise _too_many()
    if element.id in _MASTERS and depth < _MAX_DEPTH:
        for child in _row(data, element.start, min(len(data), element.end or len(data))):
            count = _counted(data, child, count, depth + 1)
    return count


def _too_many() -> MediaTooLarge:
    return MediaTooLarge(f"the clip has more than {MAX_ELEMENTS:,} elements beside its frames; export it again")


def _row(data: bytes, at: int, end: int) -> Iterator[_Element]:
    while (element := _element(data, at, end)) is not None:
        yield element
        if element.end is None:
            return
        at = element.end


def _element(data: bytes, at: int, end: int) -> _Element | None:
    """Return the element at a position; None if there is no whole header."""
    if at >= end:
        return None
    id_length = 9 - data[at].bit_length()
    sized = at + id_length
    if id_length > 4 or sized >= end:
        return None
    length = 9 - data[sized].bit_length()
    start = sized + length
    if length > 8 or start > end:
        return None
    unknown = (1 << 7 * length) - 1
    size = int.from_bytes(data[sized:start], "big") & unknown
    return _Element(int.from_bytes(data[at:sized], "big"), start, None if size == unknown else start + size)
