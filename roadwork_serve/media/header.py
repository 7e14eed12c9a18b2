"""Headers of files: the work that they declare. Nothing is decoded, and nothing is believed for good.

It serves to schedule files and to refuse expensive ones early; the decoders check sizes again.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

MAX_SEGMENTS = 2_000  # of a JPEG; cameras write 10 to 50, a depth map in XMP about a hundred
SCAN = 0xDA
_MARKER = re.compile(rb"[^\xff]*\xff+", re.DOTALL)
ALONE = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))  # markers without a length (ITU-T T.81, B.1.1.3); 0 is an escape
_AFTER_SCAN = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)  # neither an escape nor a restart
_END_MARKERS = (0xD8, 0xD9)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # T.81, table B.1
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG, 11.2.1: colour type -> channels
_MAX_BOXES = 64  # before the header of an MP4
_MAX_TRACKS = 16
_WEBM_HEADER = 64 * 2**10  # bytes
_WEBM_NUMBER = rb"(?:\x81(.)|\x82(..)|\x83(...))"
_WEBM_SIZE = re.compile(rb"\xb0" + _WEBM_NUMBER + rb"\xba" + _WEBM_NUMBER, re.DOTALL)  # PixelWidth, PixelHeight


class Segment(NamedTuple):
    """A segment of a JPEG before its image data."""

    marker: int
    #: Position after the marker.
    at: int
    #: Bytes before it that belong to no segment.
    fill: int


@dataclass(frozen=True, slots=True)
class Header:
    """Declared properties of a photo or clip."""

    width: int
    height: int
    #: Bits of a stored pixel; of a PNG only.
    bits: int = 24
    #: True if the decoder holds the whole image at full size, as for a progressive JPEG.
    buffered: bool = False
    #: Number of frames; of a clip only.
    frames: int = 1

    @property
    def pixels(self) -> int:
        """Pixels of the photo, or of one frame."""
        return self.width * self.height


def read_header(data: bytes, mime: str) -> Header | None:
    """Return what the header of a file of a known type declares; None if that is not found."""
    try:
        match mime:
            case "image/jpeg":
                return _jpeg(data)
            case "image/png":
                width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
                return Header(width, height, depth * _PNG_CHANNELS.get(colour, 4))
            case "image/webp":
                return Header(*webp_size(data))
            case "video/webm":
                return _webm(data)
            case _:
                return _mp4(data)
    except (struct.error, IndexError):
        return None


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


def _jpeg(data: bytes) -> Header | None:
    header, channels = None, 0
    for segment in islice(segments(data), MAX_SEGMENTS):
        if segment.marker in _FRAMES:  # the last one counts, as for Pillow
            height, width, channels = struct.unpack_from(">HHB", data, segment.at + 3)
            header = Header(width, height, 8 * channels, segment.marker in _PROGRESSIVE)
        elif segment.marker == SCAN and header and data[segment.at + 2] < channels:  # the other channels come later
            return Header(header.width, header.height, header.bits, buffered=True)
    return header


def webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a WebP (RFC 9649, sections 2.5 to 2.7)."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _mp4(data: bytes) -> Header | None:
    """Return the largest picture of the tracks (ISO/IEC 14496-12, 8.5.2 and 12.1.3) and the most samples (8.7.3)."""
    at, start = 0, -1
    for _ in range(_MAX_BOXES):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
        if kind == b"moov":
            start = at
            break
        at += max(8, size)
    if start < 0:
        return None
    end = start + int.from_bytes(data[start : start + 4], "big")
    sizes = [struct.unpack_from(">HH", data, found + 44) for found in _found(data, b"stsd", start, end)]
    frames = [struct.unpack_from(">I", data, found + 12)[0] for found in _found(data, b"stsz", start, end)]
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    return Header(width, height, frames=max(frames, default=0)) if width * height else None


def _webm(data: bytes) -> Header | None:
    found = _WEBM_SIZE.search(data, 0, _WEBM_HEADER)
    if found is None:
        return None
    width, height = (int.from_bytes(each, "big") for each in found.groups() if each is not None)
    return Header(width, height, frames=0)


def _found(data: bytes, name: bytes, start: int, end: int) -> Iterator[int]:
    """Yield the position of each name between start and end, up to one for each of some tracks."""
    for _ in range(_MAX_TRACKS):
        start = data.find(name, start, end)
        if start < 0:
            return
        yield start
        start += len(name)
