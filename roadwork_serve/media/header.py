"""Headers of files: the work that they declare. Nothing is decoded, and nothing is believed for good.

It serves to schedule files and to refuse expensive ones early; the decoders check sizes again.
"""

import struct
from dataclasses import dataclass
from itertools import islice

from roadwork_serve.errors import MediaError
from roadwork_serve.media.bmp import read_bmp
from roadwork_serve.media.gif import read_gif
from roadwork_serve.media.heif import read_heif
from roadwork_serve.media.jpeg import FRAMES, MAX_SEGMENTS, SCAN, segments
from roadwork_serve.media.tiff import read_tiff

_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG, 11.2.1: colour type -> channels


@dataclass(frozen=True, slots=True)
class Header:
    """Declared properties of a photo or clip."""

    width: int
    height: int
    #: Bits of a stored pixel; of a PNG, TIFF or BMP.
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
            case "image/gif":
                return Header(*read_gif(data)[:2])
            case "image/bmp":
                return Header(*read_bmp(data))
            case "image/tiff":
                return Header(*read_tiff(data)[:3])
            case "image/heic" | "image/avif":
                return Header(*read_heif(data, mime)[:2])
            case _:
                return None
    except (struct.error, IndexError, MediaError):
        return None


def _jpeg(data: bytes) -> Header | None:
    header, channels = None, 0
    for segment in islice(segments(data), MAX_SEGMENTS):
        if segment.marker in FRAMES:  # the last one counts, as for Pillow
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
