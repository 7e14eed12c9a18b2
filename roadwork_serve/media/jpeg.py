"""The markers of a JPEG (ITU-T T.81): its segments, its scans, its coding, and whether it is complete."""

import random
import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from roadwork_serve.errors import MediaTooLarge, UnsupportedMedia

MAX_SEGMENTS = 2_000  # cameras write 10 to 50, a depth map in XMP about a hundred
SCAN = 0xDA
_MARKER = re.compile(rb"[^\xff]*\xff+", re.DOTALL)
ALONE = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))  # markers without a length (ITU-T T.81, B.1.1.3); 0 is an escape
_AFTER_SCAN = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)  # neither an escape nor a restart
_END_MARKERS = (0xD8, 0xD9)
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # T.81, table B.1
_CODINGS = {  # the same: those that are not decoded
    **dict.fromkeys((0xC3, 0xC7), "losslessly"),
    **dict.fromkeys((0xC5, 0xC6), "hierarchically"),
    **dict.fromkeys((0xC9, 0xCA, 0xCB, 0xCC, 0xCD, 0xCE, 0xCF), "arithmetically"),
    0xF7: "as JPEG-LS",  # ITU-T T.87
}
_MAX_METADATA = 4 * 2**20  # bytes of tables, profiles and EXIF; Pillow takes milliseconds per 64 KiB of some
_MAX_FILL = 64 * 2**10  # bytes between segments
_COMMENT, _APP1 = 0xFE, 0xE1
_END = b"\xff\xd9"


class Segment(NamedTuple):
    """A segment of a JPEG before its image data."""

    marker: int
    #: Position after the marker.
    at: int
    #: Bytes before it that belong to no segment.
    fill: int


def segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments of a JPEG up to its first scan."""
    at = 2
    while (found := _MARKER.match(data, at)) and found.end() < len(data):
        segment = Segment(data[found.end()], found.end() + 1, found.end() - at - 1)
        yield segment
        if segment.marker == SCAN:
            return
        at = segment.at
        if segment.marker not in ALONE:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))


def count_scans(data: bytes, most: int) -> int:
    """Return the number of scans of a JPEG; more than `most` if there are more, or very many other segments.

    What follows the image does not count, such as the video of a motion photo.
    """
    first = next((each for each in islice(segments(data), MAX_SEGMENTS) if each.marker == SCAN), None)
    if first is None:
        return 0
    at, scans = first.at, 1
    for _ in range(MAX_SEGMENTS):
        found = _AFTER_SCAN.search(data, at)
        if found is None or (marker := found[1][0]) in _END_MARKERS:
            return scans
        scans += marker == SCAN
        if scans > most:
            return scans
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))
    return most + 1


def endings(data: bytes) -> tuple[bytes, bytes] | None:
    """Return a JPEG that lacks its end marker with two different endings; None if it has one.

    If all its pixels are there, they are the same with both endings. Otherwise the missing ones are grey with the first
    and noise with the second. Zeros at the end do not count: a file of a reserved size has them instead of its end.
    """
    start = next((each.at for each in islice(segments(data), MAX_SEGMENTS) if each.marker == SCAN), None)
    if start is None or data.find(_END, start) >= 0:
        return None
    data = data[: len(data.rstrip(b"\0")) + 1]  # the first zero may belong to an escape
    noise = bytes(random.Random(0).choices(range(1, 0xFF), k=512))  # noqa: S311
    restarts = b"".join(b"\xff%c" % (0xD0 + at % 8) + noise for at in range(16))  # a file may end just before one
    rest = b"\0" if data.endswith(b"\xff") else b""  # of an escape, or noise would make a marker of it
    return data + _END, data + rest + noise + restarts + _END


def check_jpeg(data: bytes) -> None:
    """Check a JPEG before its image data.

    Raises:
        MediaTooLarge: The metadata would take long to parse.
        UnsupportedMedia: It is coded in a way that is not decoded.
    """
    metadata, fill = 0, 0
    for count, segment in enumerate(segments(data)):
        fill += segment.fill
        if segment.marker == SCAN:
            return
        if coding := _unusual_coding(data, segment):
            raise UnsupportedMedia(f"the JPEG is coded {coding}; export it as a baseline JPEG")
        if segment.marker not in ALONE:
            xmp = segment.marker == _APP1 and not data.startswith(b"Exif\0", segment.at + 2)
            length = int.from_bytes(data[segment.at : segment.at + 2], "big")
            metadata += 0 if xmp or segment.marker == _COMMENT else length
        if fill > _MAX_FILL or metadata > _MAX_METADATA or count + 1 >= MAX_SEGMENTS:
            raise MediaTooLarge("the JPEG has too much metadata; export it again without it")


def _unusual_coding(data: bytes, segment: Segment) -> str | None:
    """Return how a JPEG is coded, if that is not decoded."""
    if segment.marker in FRAMES and segment.marker not in _CODINGS and segment.at + 2 < len(data):
        bits = data[segment.at + 2]
        return None if bits == 8 else f"with {bits} bits per channel"
    return _CODINGS.get(segment.marker)
